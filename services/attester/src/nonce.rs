//! The form of a nonce that we quote over.
//!
//! REPORTDATA hashes `val`, `iat` and the user data one after the other, without lengths: that is Intel's formula. So a
//! nonce of any form would let whoever brings it - the bus - append bytes of its own to a genuine one. The quote would then
//! also be one over the genuine nonce and user data that *begins with those bytes*, and a public key in user data becomes
//! another key, whose factors its maker knows. With `iat` of one fixed form and no `-` in `val`, where the nonce ends is
//! plain from the bytes themselves, and there is one reading only.

use keyferry_contract::Reason;
use keyferry_contract::attestation::v1::VerifierNonce;

use crate::Refusal;

const VAL_BYTES_MAX: usize = 256;
const SIGNATURE_BYTES_MAX: usize = 1024;
/// The time of a nonce as Go prints it, in UTC, whole seconds; `d` is a digit.
const TIME_FORM: &[u8; 29] = b"dddd-dd-dd dd:dd:dd +0000 UTC";

/// The nonce, if it can be quoted over; `reason` says whose fault it is otherwise.
pub(crate) fn check(nonce: VerifierNonce, reason: Reason) -> Result<VerifierNonce, Refusal> {
    let refuse = |problem: String| Err(Refusal::new(reason, problem));
    for (name, bytes, max) in [("val", &nonce.val, VAL_BYTES_MAX), ("signature", &nonce.signature, SIGNATURE_BYTES_MAX)] {
        if bytes.is_empty() || bytes.len() > max {
            return refuse(format!("nonce.{name} has {} bytes: 1 to {max} are allowed", bytes.len()));
        }
    }
    if !nonce.val.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte)) {
        return refuse("nonce.val is not base64 text".to_owned());
    }
    if !is_time(&nonce.iat) {
        return refuse("nonce.iat is not a time of the form 2026-03-04 10:11:12 +0000 UTC".to_owned());
    }
    Ok(nonce)
}

fn is_time(iat: &[u8]) -> bool {
    let fits = |(form, byte): (&u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { form == byte };
    iat.len() == TIME_FORM.len() && TIME_FORM.iter().zip(iat).all(fits)
}

#[cfg(test)]
mod tests {
    use keyferry_tdx_quote::report_data;

    use super::*;

    const IAT: &[u8] = b"2026-03-04 10:11:12 +0000 UTC";

    fn accepted(val: &[u8], iat: &[u8]) -> bool {
        let nonce = VerifierNonce { val: val.to_vec(), iat: iat.to_vec(), signature: vec![1] };
        check(nonce, Reason::VerifierUnavailable).is_ok()
    }

    #[test]
    fn the_verifiers_form_is_accepted() {
        assert!(accepted(&[b'v'; 88], IAT));
        assert!(accepted(b"9ETO/v6EWUxJxK1KFG62qYIriL9P5gss89RUtPa5WIGgd8dhVR9sqD2mPze9sWe/FYPpqFG9+5QbhALsGvTkLA==", IAT));
    }

    /// Every way to move the boundary between the nonce and the user data, or the one inside the nonce.
    #[test]
    fn a_nonce_that_reaches_into_the_user_data_is_refused() {
        let val = [b'v'; 88];
        let (ours, theirs) = (b"the TD's key".as_slice(), b"a key of the bus, ".as_slice());
        let longer = [IAT, theirs].concat();
        assert_eq!(report_data(&val, &longer, ours), report_data(&val, IAT, &[theirs, ours].concat()), "why it matters");
        assert!(!accepted(&val, &longer));
        assert!(!accepted(&[&val[..], IAT].concat(), theirs));
        assert!(!accepted(&[&val[..], IAT, theirs].concat(), IAT));
        for split in 1..val.len() + IAT.len() {
            let whole = [&val[..], IAT].concat();
            let (val_moved, iat_moved) = whole.split_at(split);
            assert_eq!(accepted(val_moved, iat_moved), split == val.len(), "split at {split}");
        }
        for end in 0..IAT.len() {
            assert!(!accepted(&val, &IAT[..end]));
        }
        assert!(!accepted(b"", IAT) && !accepted(&[b'v'; 257], IAT));
    }
}
