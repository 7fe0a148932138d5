//! The JSON body of an attest request: flat (v1) or composite (v2), of a TD on bare metal or behind Azure's paravisor.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use keyferry_attestation_token::{Algorithm, Shape};
use keyferry_contract::{Reason, USER_DATA_BYTES_MAX};
use serde::Deserialize;

use crate::{
    events::{bounded, parse_policy_ids, parse_quote},
    evidence::Evidence,
    nonce::Nonce,
    refusal::Refusal,
};

/// Clients send both alphabets, with and without padding.
const TOLERANT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, TOLERANT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, TOLERANT);

/// What the address says about a body and the token it asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// The token's shape.
    pub(super) shape: Shape,
    /// Whether the evidence is that of Azure's paravisor: then `runtime_data` is its runtime JSON, and `user_data` the
    /// caller's data.
    pub(super) azure: bool,
}

/// Both forms at once: members of the flat form, and `tdx` of the composite one. Members that do not concern us may be
/// there and say nothing; clients send `null` or an empty text for what is unset.
#[derive(Deserialize)]
struct AttestRequest {
    #[serde(flatten)]
    flat: TdxEvidence,
    tdx: Option<TdxEvidence>,
    sgx: Option<serde::de::IgnoredAny>,
    tpm: Option<serde::de::IgnoredAny>,
    nvgpu: Option<serde::de::IgnoredAny>,
    sevsnp: Option<serde::de::IgnoredAny>,
    policy_ids: Option<Vec<String>>,
    policy_must_match: Option<bool>,
    token_signing_alg: Option<String>,
}

#[derive(Deserialize)]
struct TdxEvidence {
    quote: Option<String>,
    runtime_data: Option<String>,
    user_data: Option<String>,
    event_log: Option<String>,
    verifier_nonce: Option<NonceText>,
}

#[derive(Deserialize)]
struct NonceText {
    val: String,
    iat: String,
    signature: String,
}

/// Evidence in this form, for a token signed with one of `algorithms`.
pub(super) fn parse(body: &[u8], form: Form, algorithms: &[Algorithm]) -> Result<Evidence, Refusal> {
    let request: AttestRequest =
        serde_json::from_slice(body).map_err(|error| malformed(format!("the body is no attest request: {}", position(&error))))?;
    let others = [
        ("sgx", request.sgx.is_some()),
        ("tpm", request.tpm.is_some()),
        ("nvgpu", request.nvgpu.is_some()),
        ("sevsnp", request.sevsnp.is_some()),
    ];
    if let Some((name, _)) = others.into_iter().find(|(_, given)| *given) {
        return Err(malformed(format!("`{name}` evidence is not supported: send `tdx` alone")));
    }
    let algorithm = algorithm(request.token_signing_alg.as_deref(), algorithms)?;
    let tdx = request.tdx.unwrap_or(request.flat);
    let quote = given(tdx.quote).ok_or_else(|| malformed("`quote` is missing"))?;
    let (runtime_data, user_data) = (optional("runtime_data", tdx.runtime_data)?, optional("user_data", tdx.user_data)?);
    let (azure_runtime, user_data) = match (form.azure, user_data) {
        (true, user_data) => (Some(runtime_data).filter(|json| !json.is_empty()), user_data),
        (false, user_data) if user_data.is_empty() => (None, runtime_data),
        (false, _) => return Err(malformed("`user_data` belongs to Azure's evidence: send `runtime_data`")),
    };
    if form.azure && azure_runtime.is_none() {
        return Err(malformed("`runtime_data` is missing: it has to be the runtime JSON of Azure's paravisor"));
    }
    Ok(Evidence {
        quote: parse_quote(&decode("quote", &quote)?)?,
        nonce: tdx.verifier_nonce.as_ref().map(nonce).transpose()?,
        user_data: bounded("user data", user_data, USER_DATA_BYTES_MAX)?,
        azure_runtime: azure_runtime.map(|json| bounded("the runtime JSON", json, USER_DATA_BYTES_MAX)).transpose()?,
        event_log: optional("event_log", tdx.event_log)?,
        policy_ids: parse_policy_ids(&request.policy_ids.unwrap_or_default())?,
        policy_must_match: request.policy_must_match.unwrap_or_default(),
        algorithm,
        td_id: None,
        attestation_id: None,
        shape: form.shape,
    })
}

fn algorithm(wanted: Option<&str>, offered: &[Algorithm]) -> Result<Option<Algorithm>, Refusal> {
    let Some(wanted) = wanted.filter(|name| !name.is_empty()) else { return Ok(None) };
    let found = offered.iter().find(|algorithm| algorithm.name() == wanted);
    found.copied().map(Some).ok_or_else(|| {
        let offered = offered.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ");
        malformed(format!("`token_signing_alg`: tokens are signed with {offered} here"))
    })
}

fn nonce(text: &NonceText) -> Result<Nonce, Refusal> {
    Ok(Nonce {
        val: decode("verifier_nonce.val", &text.val)?,
        iat: decode("verifier_nonce.iat", &text.iat)?,
        signature: decode("verifier_nonce.signature", &text.signature)?,
    })
}

/// An empty text is an unset member.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn optional(member: &str, text: Option<String>) -> Result<Vec<u8>, Refusal> {
    given(text).map_or(Ok(Vec::new()), |text| decode(member, &text))
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

    const PLAIN: Form = Form { shape: Shape::V2Nested, azure: false };
    const AZURE: Form = Form { azure: true, ..PLAIN };

    fn parsed(body: &serde_json::Value) -> Result<Evidence, Refusal> {
        parse(body.to_string().as_bytes(), PLAIN, &[Algorithm::Ps384])
    }

    #[test]
    fn the_forms_clients_send_mean_the_same() {
        let standard = BASE64_STANDARD.encode(QUOTE);
        let url_safe = BASE64_URL_SAFE_NO_PAD.encode(QUOTE);
        let bodies = [
            json!({ "quote": standard, "verifier_nonce": nonce(), "runtime_data": "AAEC", "policy_ids": null, "policy_must_match": null }),
            json!({ "tdx": { "quote": standard, "verifier_nonce": nonce(), "runtime_data": "AAEC", "event_log": "" } }),
            json!({ "tdx": { "quote": url_safe, "verifier_nonce": nonce(), "runtime_data": "AAEC" }, "token_signing_alg": "PS384" }),
            json!({ "tdx": { "quote": url_safe, "verifier_nonce": nonce(), "runtime_data": "AAEC", "user_data": "" }, "token_signing_alg": "" }),
        ];
        for body in bodies {
            let evidence = parsed(&body).unwrap();
            assert_eq!(evidence.user_data, [0, 1, 2]);
            let nonce = evidence.nonce.unwrap();
            assert_eq!((nonce.val.as_slice(), nonce.iat.as_slice()), (&b"val"[..], &b"iat"[..]));
            assert_eq!(evidence.quote.without_tail(), &QUOTE[..4936]);
            assert!(evidence.event_log.is_empty() && evidence.azure_runtime.is_none() && !evidence.policy_must_match);
        }
        let no_data = json!({ "tdx": { "quote": standard, "verifier_nonce": nonce(), "runtime_data": null } });
        assert_eq!(parsed(&no_data).unwrap().user_data, [] as [u8; 0]);
    }

    #[test]
    fn a_quote_alone_is_a_request_and_what_stands_beside_it_counts() {
        let quote = BASE64_STANDARD.encode(QUOTE);
        let alone = parsed(&json!({ "tdx": { "quote": quote } })).unwrap();
        assert!(alone.nonce.is_none() && alone.algorithm.is_none());
        let id = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";
        let more = json!({
            "quote": quote, "event_log": "_-8", "policy_ids": [id], "policy_must_match": true, "token_signing_alg": "PS384",
        });
        let more = parsed(&more).unwrap();
        assert_eq!((more.event_log.as_slice(), more.policy_must_match), (&[0xff, 0xef][..], true));
        assert_eq!((more.policy_ids[0].to_string().as_str(), more.algorithm), (id, Some(Algorithm::Ps384)));
    }

    #[test]
    fn azures_two_members_have_their_own_meaning() {
        let quote = BASE64_STANDARD.encode(QUOTE);
        let azure = |body: serde_json::Value| parse(body.to_string().as_bytes(), AZURE, &[Algorithm::Ps384]);
        let evidence =
            azure(json!({ "tdx": { "quote": quote, "runtime_data": BASE64_STANDARD.encode("{}"), "user_data": "AAEC" } })).unwrap();
        assert_eq!((evidence.azure_runtime.as_deref(), evidence.user_data.as_slice()), (Some(&b"{}"[..]), &[0, 1, 2][..]));
        let missing = azure(json!({ "tdx": { "quote": quote, "user_data": "AAEC" } })).unwrap_err();
        assert!(missing.reason == Reason::RequestMalformed && missing.detail.contains("`runtime_data`"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_member() {
        let quote = BASE64_STANDARD.encode(QUOTE);
        let cases = [
            (json!([]), Reason::RequestMalformed, "no attest request"),
            (json!({}), Reason::RequestMalformed, "`quote`"),
            (json!({ "quote": "%", "verifier_nonce": nonce() }), Reason::RequestMalformed, "`quote` is not base64"),
            (json!({ "quote": "AAAA", "verifier_nonce": nonce() }), Reason::QuoteMalformed, "version 0"),
            (json!({ "quote": "", "verifier_nonce": nonce() }), Reason::RequestMalformed, "`quote` is missing"),
            (json!({ "quote": quote, "verifier_nonce": { "val": "" } }), Reason::RequestMalformed, "no attest request"),
            (json!({ "quote": quote, "event_log": "%" }), Reason::RequestMalformed, "`event_log`"),
            (json!({ "sgx": {}, "quote": quote }), Reason::RequestMalformed, "`sgx`"),
            (json!({ "tdx": { "quote": quote, "user_data": "AA==" } }), Reason::RequestMalformed, "`user_data`"),
            (json!({ "quote": quote, "verifier_nonce": nonce(), "token_signing_alg": "RS256" }), Reason::RequestMalformed, "PS384"),
            (json!({ "quote": quote, "verifier_nonce": nonce(), "policy_ids": ["x"] }), Reason::RequestMalformed, "policy_ids"),
            (json!({ "quote": quote, "verifier_nonce": nonce(), "policy_ids": vec!["x"; 11] }), Reason::RequestMalformed, "11 policy"),
            (
                json!({ "quote": quote, "verifier_nonce": nonce(), "runtime_data": BASE64_STANDARD.encode(vec![0; 1_048_577]) }),
                Reason::RequestTooLarge,
                "1048577",
            ),
        ];
        for (body, reason, detail) in cases {
            let refusal = parsed(&body).unwrap_err();
            assert_eq!(refusal.reason, reason, "{}", refusal.detail);
            assert!(refusal.detail.contains(detail), "{}", refusal.detail);
        }
    }
}
