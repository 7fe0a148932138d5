//! What `key-release` refused, in the two lines of every mistake: its message, which begins with the reason's label, and
//! what to do. Wanted and got follow where an administrator is told them.

use std::error::Error;

use keyferry_contract::{DOMAIN, Reason};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::output::{Failure, printable};

/// The reason in a refusal; `None` where `key-release` did not answer, or something else did.
pub(crate) fn reason(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    Reason::from_label(&info.reason)
}

/// A refusal, or the connection's failure, as this command's.
pub(crate) fn refused(url: &str, status: &Status) -> Failure {
    let Some(reason) = reason(status) else { return unanswered(url, status) };
    let advice = reason.advice();
    let text = printable(status.message());
    let text = if text.starts_with(advice.label) { text } else { format!("{}: {text}", advice.label) };
    let message = format!("{text}{}", compared(status));
    let failure = match reason {
        Reason::RequestMalformed | Reason::RequestTooLarge => Failure::usage(message),
        _ => Failure::failed(message),
    };
    failure.hint(advice.text)
}

/// `; wanted X, got Y`, where the refusal carries them.
fn compared(status: &Status) -> String {
    let metadata = status.get_details_error_info().map(|info| info.metadata).unwrap_or_default();
    let shown: Vec<String> = ["claim", "wanted", "got"]
        .into_iter()
        .filter_map(|name| metadata.get(name).map(|value| format!("{name} {}", printable(value))))
        .collect();
    if shown.is_empty() { String::new() } else { format!("; {}", shown.join(", ")) }
}

/// No `key-release` answered: the innermost cause says most.
fn unanswered(url: &str, status: &Status) -> Failure {
    let mut cause: Option<&dyn Error> = status.source();
    let mut innermost = printable(status.message());
    while let Some(error) = cause {
        innermost = error.to_string();
        cause = error.source();
    }
    let message = format!("{url} did not answer ({:?}): {innermost}", status.code());
    match status.code() {
        Code::Unimplemented => Failure::failed(message).hint("this key-release is older than this command line"),
        _ => Failure::failed(message).hint("is key-release running there, and does --ca-file hold the root of its certificate?"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn status(reason: Reason, text: &str, metadata: &[(&str, &str)]) -> Status {
        let metadata: HashMap<String, String> = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Status::with_error_details(reason.advice().grpc, text, ErrorDetails::with_error_info(reason.label(), DOMAIN, metadata))
    }

    #[test]
    fn a_refusal_shows_label_comparison_and_advice() {
        let refusal = status(Reason::PolicyMismatch, "policy_mismatch: no", &[("wanted", "aa"), ("got", "bb\u{1b}[31m")]);
        assert_eq!(reason(&refusal), Some(Reason::PolicyMismatch));
        let shown = format!("{:?}", refused("https://x", &refusal));
        assert!(
            shown.contains("policy_mismatch: no; wanted aa, got bb") && shown.contains(Reason::PolicyMismatch.advice().text),
            "{shown}"
        );
        assert!(!shown.contains("\\u{1b}"), "control characters do not reach a terminal: {shown}");
    }

    #[test]
    fn a_stranger_is_not_believed_to_be_a_broker() {
        let foreign = Status::with_error_details(
            Code::PermissionDenied,
            "no",
            ErrorDetails::with_error_info("policy_mismatch", "example.com", HashMap::new()),
        );
        assert_eq!(reason(&foreign), None);
        assert!(format!("{:?}", refused("https://x", &foreign)).contains("did not answer"));
    }
}
