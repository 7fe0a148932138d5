//! The JSON body of an attest request, flat (v1) or composite (v2).

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use keyferry_attestation_token::Shape;
use keyferry_contract::Reason;
use serde::Deserialize;

use crate::{
    appraiser::Evidence,
    events::{bounded, parse_policy_ids, parse_quote},
    nonce::Nonce,
    refusal::Refusal,
};

/// Clients send both alphabets, with and without padding.
const TOLERANT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, TOLERANT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, TOLERANT);

/// Both forms at once: members of the flat form, and `tdx` of the composite one. Members that do not concern us may be
/// there and say nothing; clients send `null` for what is unset.
#[derive(Deserialize)]
struct AttestRequest {
    #[serde(flatten)]
    flat: TdxEvidence,
    tdx: Option<TdxEvidence>,
    sgx: Option<serde_json::Value>,
    tpm: Option<serde_json::Value>,
    nvgpu: Option<serde_json::Value>,
    sevsnp: Option<serde_json::Value>,
    policy_ids: Option<Vec<String>>,
    token_signing_alg: Option<String>,
}

#[derive(Deserialize)]
struct TdxEvidence {
    quote: Option<String>,
    runtime_data: Option<String>,
    user_data: Option<String>,
    verifier_nonce: Option<NonceText>,
}

#[derive(Deserialize)]
struct NonceText {
    val: String,
    iat: String,
    signature: String,
}

/// Evidence for a token of this shape, signed with `algorithm`.
pub(super) fn parse(body: &[u8], shape: Shape, algorithm: &str) -> Result<Evidence, Refusal> {
    let request: AttestRequest =
        serde_json::from_slice(body).map_err(|error| malformed(format!("the body is no attest request: {}", position(&error))))?;
    for (name, other) in [("sgx", &request.sgx), ("tpm", &request.tpm), ("nvgpu", &request.nvgpu), ("sevsnp", &request.sevsnp)] {
        if other.is_some() {
            return Err(malformed(format!("`{name}` evidence is not supported: send `tdx` alone")));
        }
    }
    if request.token_signing_alg.as_deref().is_some_and(|wanted| wanted != algorithm) {
        return Err(malformed(format!("`token_signing_alg`: tokens are signed with {algorithm} here")));
    }
    let tdx = request.tdx.unwrap_or(request.flat);
    if tdx.user_data.is_some_and(|text| !text.is_empty()) {
        return Err(malformed("`user_data` belongs to Azure's evidence, which is not supported: send `runtime_data`"));
    }
    let quote = tdx.quote.ok_or_else(|| malformed("`quote` is missing"))?;
    let nonce = tdx.verifier_nonce.ok_or_else(|| Refusal::new(Reason::NonceMissing, "`verifier_nonce` is missing"))?;
    Ok(Evidence {
        quote: parse_quote(&decode("quote", &quote)?)?,
        nonce: Nonce {
            val: decode("verifier_nonce.val", &nonce.val)?,
            iat: decode("verifier_nonce.iat", &nonce.iat)?,
            signature: decode("verifier_nonce.signature", &nonce.signature)?,
        },
        user_data: bounded(decode("runtime_data", tdx.runtime_data.as_deref().unwrap_or_default())?)?,
        policy_ids: parse_policy_ids(&request.policy_ids.unwrap_or_default())?,
        td_id: None,
        attestation_id: None,
        shape,
    })
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Refusal::new(Reason::RequestMalformed, detail)
}

/// serde's own text may quote the body.
fn position(error: &serde_json::Error) -> String {
    format!("line {} column {}", error.line(), error.column())
}

fn decode(member: &str, text: &str) -> Result<Vec<u8>, Refusal> {
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).map_err(|_| malformed(format!("`{member}` is not base64")))
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    const QUOTE: &[u8] = include_bytes!("../../../../crates/dcap/testdata/tdx/v4-uptodate/quote.bin");

    fn nonce() -> serde_json::Value {
        json!({ "val": "dmFs", "iat": "aWF0", "signature": "c2ln" })
    }

    fn parsed(body: &serde_json::Value) -> Result<Evidence, Refusal> {
        parse(body.to_string().as_bytes(), Shape::V2Nested, "PS384")
    }

    #[test]
    fn the_forms_clients_send_mean_the_same() {
        let standard = BASE64_STANDARD.encode(QUOTE);
        let url_safe = BASE64_URL_SAFE_NO_PAD.encode(QUOTE);
        let bodies = [
            json!({ "quote": standard, "verifier_nonce": nonce(), "runtime_data": "AAEC", "policy_ids": null, "policy_must_match": null }),
            json!({ "tdx": { "quote": standard, "verifier_nonce": nonce(), "runtime_data": "AAEC", "event_log": "AA==" } }),
            json!({ "tdx": { "quote": url_safe, "verifier_nonce": nonce(), "runtime_data": "AAEC" }, "token_signing_alg": "PS384" }),
        ];
        for body in bodies {
            let evidence = parsed(&body).unwrap();
            assert_eq!(evidence.user_data, [0, 1, 2]);
            assert_eq!((evidence.nonce.val.as_slice(), evidence.nonce.iat.as_slice()), (&b"val"[..], &b"iat"[..]));
            assert_eq!(evidence.quote.without_tail(), &QUOTE[..4936]);
        }
        let no_data = json!({ "tdx": { "quote": standard, "verifier_nonce": nonce(), "runtime_data": null } });
        assert_eq!(parsed(&no_data).unwrap().user_data, [] as [u8; 0]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_member() {
        let quote = BASE64_STANDARD.encode(QUOTE);
        let cases = [
            (json!([]), Reason::RequestMalformed, "no attest request"),
            (json!({}), Reason::RequestMalformed, "`quote`"),
            (json!({ "quote": quote }), Reason::NonceMissing, "`verifier_nonce`"),
            (json!({ "quote": "%", "verifier_nonce": nonce() }), Reason::RequestMalformed, "`quote` is not base64"),
            (json!({ "quote": "AAAA", "verifier_nonce": nonce() }), Reason::QuoteMalformed, "version 0"),
            (json!({ "quote": "", "verifier_nonce": nonce() }), Reason::RequestMalformed, "quote is missing"),
            (json!({ "sgx": {}, "quote": quote }), Reason::RequestMalformed, "`sgx`"),
            (json!({ "tdx": { "quote": quote, "user_data": "AA==" } }), Reason::RequestMalformed, "`user_data`"),
            (json!({ "quote": quote, "verifier_nonce": nonce(), "token_signing_alg": "RS256" }), Reason::RequestMalformed, "PS384"),
            (json!({ "quote": quote, "verifier_nonce": nonce(), "policy_ids": ["x"] }), Reason::RequestMalformed, "policy_ids"),
            (json!({ "quote": quote, "verifier_nonce": nonce(), "policy_ids": vec!["x"; 11] }), Reason::RequestTooLarge, "11 policy"),
            (
                json!({ "quote": quote, "verifier_nonce": nonce(), "runtime_data": BASE64_STANDARD.encode(vec![0; 32_769]) }),
                Reason::RequestTooLarge,
                "32769",
            ),
        ];
        for (body, reason, detail) in cases {
            let refusal = parsed(&body).unwrap_err();
            assert_eq!(refusal.reason, reason, "{}", refusal.detail);
            assert!(refusal.detail.contains(detail), "{}", refusal.detail);
        }
    }
}
