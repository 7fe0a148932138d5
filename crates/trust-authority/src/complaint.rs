//! What an error's text is about. The text itself goes no further: it is a peer's.

use serde::Deserialize;

/// Longest piece of a peer's reason label that is kept.
const LABEL_CHARACTERS_MAX: usize = 64;

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// The label at the start of `{"error":"<label>: <text>"}`, lower-case letters and underscores, as a token-broker writes it.
/// Intel's texts have none; of those of a refusal (400), a few words tell what they are about.
pub(crate) fn reason_label(status: u16, body: &[u8]) -> Option<String> {
    let text = serde_json::from_slice::<ErrorBody>(body).ok()?.error;
    let label = text.split_once(':').map(|(label, _)| label).filter(|label| is_label(label));
    label.or_else(|| subject(&text).filter(|_| status == 400)).map(str::to_owned)
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_CHARACTERS_MAX).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The first of these whose words are all there. What Intel's service says exactly is documented nowhere, so the words are
/// the nouns of its documentation, the most telling ones first.
const SUBJECTS: [(&[&str], &str); 15] = [
    (&["nonce", "expired"], "nonce_expired"),
    (&["report", "data"], "report_data_mismatch"),
    (&["runtime", "data"], "report_data_mismatch"),
    (&["held", "data"], "report_data_mismatch"),
    (&["user", "data"], "report_data_mismatch"),
    (&["nonce"], "nonce_signature_invalid"),
    (&["policy", "not found"], "policy_not_found"),
    (&["polic"], "policy_mismatch"),
    (&["event", "log"], "event_log_mismatch"),
    (&["revoked"], "platform_revoked"),
    (&["tcb"], "tcb_status_not_allowed"),
    (&["collateral"], "collateral_missing"),
    (&["quote", "signature"], "quote_signature_invalid"),
    (&["quote", "verif"], "quote_signature_invalid"),
    (&["quote"], "quote_malformed"),
];

fn subject(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    SUBJECTS.iter().find(|(words, _)| words.iter().all(|word| text.contains(word))).map(|(_, label)| *label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_counts_at_any_status_and_words_only_in_a_refusal() {
        let of = |status, text: &str| reason_label(status, serde_json::json!({ "error": text }).to_string().as_bytes());
        assert_eq!(of(400, "debug_enabled: TDATTRIBUTES.DEBUG is set").as_deref(), Some("debug_enabled"));
        assert_eq!(of(503, "overloaded: come back").as_deref(), Some("overloaded"));
        for (text, label) in [
            ("Verifier nonce expired", "nonce_expired"),
            ("Nonce signature could not be verified", "nonce_signature_invalid"),
            ("Invalid quote: report data does not match the user data and nonce", "report_data_mismatch"),
            ("Policy does not match and policy_must_match is set", "policy_mismatch"),
            ("Quote signature verification failed", "quote_signature_invalid"),
            ("PCK certificate is revoked", "platform_revoked"),
            ("Malformed quote", "quote_malformed"),
        ] {
            assert_eq!(of(400, text).as_deref(), Some(label), "{text}");
            assert_eq!(of(403, text), None, "{text}");
        }
        assert_eq!(of(400, "Bad request"), None);
        assert_eq!(reason_label(400, b"nonce expired"), None, "not the API's form");
    }
}
