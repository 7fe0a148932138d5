//! Evidence as every surface hands it over: decoded, bounded, not yet believed.

use keyferry_attestation_token::{Algorithm, Shape};
use keyferry_contract::Reason;
use keyferry_identifiers::{AttestationId, PolicyId, TdId};
use keyferry_tdx_quote::{Quote, report_data};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    nonce::{self, Nonce},
    refusal::Refusal,
};

/// Evidence that was decoded and bounded, and whose quote parses.
pub(crate) struct Evidence {
    /// The quote.
    pub(crate) quote: Quote,
    /// The nonce as it came back; over HTTPS it may be left out.
    pub(crate) nonce: Option<Nonce>,
    /// What the TD bound into the quote; empty = nothing.
    pub(crate) user_data: Vec<u8>,
    /// The runtime JSON of Azure's paravisor, byte for byte, when the evidence is Azure's.
    pub(crate) azure_runtime: Option<Vec<u8>>,
    /// The event log: raw CCEL, or Intel's JSON text; empty = none.
    pub(crate) event_log: Vec<u8>,
    /// Further policies to judge by.
    pub(crate) policy_ids: Vec<PolicyId>,
    /// Whether a policy of `policy_ids` that does not match means that there is no token.
    pub(crate) policy_must_match: bool,
    /// How the token is to be signed; `None`: as configured.
    pub(crate) algorithm: Option<Algorithm>,
    /// The TD's bus identity, when it came over the bus.
    pub(crate) td_id: Option<TdId>,
    /// The attestation, when it came over the bus.
    pub(crate) attestation_id: Option<AttestationId>,
    /// In which shape the token is wanted.
    pub(crate) shape: Shape,
}

/// User data is the TD's own affair, and a nonce its right to a token.
impl std::fmt::Debug for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Evidence({:?}, {:?}, contents redacted)", self.td_id, self.attestation_id)
    }
}

/// The one member of the paravisor's runtime JSON that binds something to the TD's report.
#[derive(Deserialize)]
struct AzureRuntime {
    #[serde(rename = "user-data")]
    user_data: String,
}

impl Evidence {
    /// Names this evidence: everything that decides its answer. The quote counts to its last byte before the zero tail:
    /// whoever changes its certificates or signatures sends other evidence, which nobody verified.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(self.quote.without_tail());
        part(&self.user_data);
        part(&[u8::from(self.azure_runtime.is_some())]);
        part(self.azure_runtime.as_deref().unwrap_or_default());
        part(&self.event_log);
        part(self.td_id.as_ref().map(TdId::as_str).unwrap_or_default().as_bytes());
        part(self.attestation_id.as_ref().map(ToString::to_string).unwrap_or_default().as_bytes());
        part(&[u8::from(self.shape == Shape::V1Flat), u8::from(self.policy_must_match)]);
        part(self.algorithm.map(Algorithm::name).unwrap_or_default().as_bytes());
        for id in &self.policy_ids {
            part(id.to_string().as_bytes());
        }
        hash.finalize().into()
    }

    /// What the quote's report data has to be, 64 bytes. `None` when the evidence has neither nonce nor data: there is
    /// nothing to bind, and whatever the TD had quoted is reported as it is.
    pub(crate) fn expected_report_data(&self) -> Result<Option<[u8; 64]>, Refusal> {
        let (val, iat) = self.nonce.as_ref().map_or((&[][..], &[][..]), |nonce| (&nonce.val, &nonce.iat));
        if self.nonce.is_none() && nonce::begins_with_nonce(&self.user_data) {
            let detail = "the user data begins with a nonce and no nonce was sent: send it as `verifier_nonce`";
            return Err(Refusal::new(Reason::ReportDataMismatch, detail));
        }
        let bound = self.nonce.is_some() || !self.user_data.is_empty();
        let bound = bound.then(|| report_data(val, iat, &self.user_data));
        match &self.azure_runtime {
            None => Ok(bound),
            Some(runtime) => azure_report_data(runtime, bound.as_ref()).map(Some),
        }
    }
}

/// Two links: the paravisor wrote `bound` into its runtime JSON, and had the SHA-256 of that JSON quoted.
fn azure_report_data(runtime: &[u8], bound: Option<&[u8; 64]>) -> Result<[u8; 64], Refusal> {
    let parsed: AzureRuntime = serde_json::from_slice(runtime)
        .map_err(|_| Refusal::new(Reason::RequestMalformed, "`runtime_data` is not the runtime JSON of Azure's paravisor"))?;
    if let Some(bound) = bound
        && !bool::from(hex::encode_upper(bound).as_bytes().ct_eq(parsed.user_data.as_bytes()))
    {
        let detail = "the runtime JSON's `user-data` is not the SHA-512 of nonce and user data in upper-case hex";
        return Err(Refusal::new(Reason::ReportDataMismatch, detail));
    }
    let mut expected = [0; 64];
    expected[..32].copy_from_slice(&Sha256::digest(runtime));
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTE: &[u8] = include_bytes!("../../../crates/dcap/testdata/tdx/v4-uptodate/quote.bin");

    fn evidence() -> Evidence {
        Evidence {
            quote: Quote::parse(QUOTE).unwrap(),
            nonce: Some(Nonce { val: b"val".to_vec(), iat: b"iat".to_vec(), signature: b"signature".to_vec() }),
            user_data: b"data".to_vec(),
            azure_runtime: None,
            event_log: Vec::new(),
            policy_ids: Vec::new(),
            policy_must_match: false,
            algorithm: None,
            td_id: None,
            attestation_id: None,
            shape: Shape::V2Nested,
        }
    }

    #[test]
    fn whatever_decides_the_answer_names_the_evidence() {
        type Change = fn(&mut Evidence);
        let changes: [Change; 9] = [
            |evidence| evidence.user_data.push(0),
            |evidence| evidence.azure_runtime = Some(Vec::new()),
            |evidence| evidence.event_log.push(0),
            |evidence| evidence.policy_ids.push(PolicyId::parse("5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10").unwrap()),
            |evidence| evidence.policy_must_match = true,
            |evidence| evidence.algorithm = Some(Algorithm::Ps384),
            |evidence| evidence.td_id = Some(TdId::parse("UABC").unwrap()),
            |evidence| evidence.attestation_id = Some(AttestationId::random()),
            |evidence| evidence.shape = Shape::V1Flat,
        ];
        let mut digests = vec![evidence().digest()];
        assert_eq!(digests[0], evidence().digest());
        for change in changes {
            let mut other = evidence();
            change(&mut other);
            digests.push(other.digest());
        }
        let count = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), count, "two different pieces of evidence have one name");
    }

    #[test]
    fn nonce_and_data_are_bound_where_they_are_given() {
        let bound = |nonce: bool, data: &[u8]| {
            let mut evidence = evidence();
            evidence.nonce = evidence.nonce.filter(|_| nonce);
            evidence.user_data = data.to_vec();
            evidence.expected_report_data().unwrap()
        };
        assert_eq!(bound(true, b"data"), Some(report_data(b"val", b"iat", b"data")));
        assert_eq!(bound(true, b""), Some(report_data(b"val", b"iat", b"")));
        assert_eq!(bound(false, b"data"), Some(report_data(b"", b"", b"data")));
        assert_eq!(bound(false, b""), None);
    }

    #[test]
    fn a_quote_over_a_nonce_is_no_quote_over_data_that_begin_with_it() {
        let (val, iat) = ("ab".repeat(44), "2026-03-04 10:11:12 +0000 UTC");
        let replayed = [val.as_bytes(), iat.as_bytes(), b"key"].concat();
        let refused = Evidence { nonce: None, user_data: replayed.clone(), ..evidence() }.expected_report_data();
        assert_eq!(refused.unwrap_err().reason, Reason::ReportDataMismatch);
        let harmless = Evidence { nonce: None, user_data: replayed[1..].to_vec(), ..evidence() };
        assert!(harmless.expected_report_data().is_ok());
        let with_a_nonce = Evidence { user_data: replayed, ..evidence() };
        assert!(with_a_nonce.expected_report_data().is_ok(), "the nonce in front of it is ours");
    }

    #[test]
    fn azures_data_is_bound_through_the_runtime_json() {
        let runtime = |user_data: &str| format!(r#"{{ "keys": [], "user-data":"{user_data}","vm-configuration":{{}} }}"#);
        let good = hex::encode_upper(report_data(b"val", b"iat", b"data"));
        let judged = |runtime: &str| Evidence { azure_runtime: Some(runtime.as_bytes().to_vec()), ..evidence() }.expected_report_data();
        let json = runtime(&good);
        let expected = judged(&json).unwrap().unwrap();
        assert_eq!((&expected[..32], &expected[32..]), (&Sha256::digest(&json)[..], &[0; 32][..]));
        for bad in [good.to_lowercase(), hex::encode_upper(report_data(b"", b"", b"data")), String::new(), "0".repeat(128)] {
            assert_eq!(judged(&runtime(&bad)).unwrap_err().reason, Reason::ReportDataMismatch, "{bad}");
        }
        for bad in ["", "[]", "{}", r#"{"user-data":1}"#] {
            assert_eq!(judged(bad).unwrap_err().reason, Reason::RequestMalformed, "{bad}");
        }
    }
}
