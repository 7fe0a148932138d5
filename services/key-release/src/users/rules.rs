//! What a username and a password may be: Intel KBS's rules, exactly, so that no client is surprised.

use std::sync::LazyLock;

use regex::Regex;

use crate::Denial;

const USERNAME_BYTES_MAX: usize = 255;
/// More than 8 and fewer than 72 bytes.
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 9..=71;

/// Intel's own expression. The range from the dot to the underscore holds the digits, the capitals and `/:;<=>?@[\]^`.
const USERNAME: &str =
    r"^[a-zA-Z0-9.-_]+@?[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$";

static USERNAME_RULE: LazyLock<Result<Regex, regex::Error>> = LazyLock::new(|| Regex::new(USERNAME));

/// Refuses what is no username.
pub(crate) fn username(text: &str) -> Result<(), Denial> {
    if text.is_empty() || text.len() > USERNAME_BYTES_MAX {
        return Err(Denial::malformed("username", format_args!("must have 1 to {USERNAME_BYTES_MAX} bytes")));
    }
    let rule = USERNAME_RULE.as_ref().map_err(|_| Denial::Internal("the rule for usernames does not compile"))?;
    if rule.is_match(text) {
        Ok(())
    } else {
        Err(Denial::malformed("username", "must be a name such as admin, key-admin or user@example.com"))
    }
}

/// Refuses what is no password.
pub(crate) fn password(text: &str) -> Result<(), Denial> {
    if !PASSWORD_BYTES.contains(&text.len()) {
        return Err(Denial::malformed("password", "must have 9 to 71 bytes"));
    }
    let counts = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'&' && byte != b'<';
    if text.bytes().any(counts) {
        Ok(())
    } else {
        Err(Denial::malformed("password", "must have at least one printable ASCII character other than & and <"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usernames() {
        let label = "a".repeat(255);
        for good in ["ab", "a.b", "_ab", "ab-c", "user-name", "user@example.com", "A9", "[x", r"a\b", "0:1", "a_b", &label] {
            assert!(username(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        let bad = ["", "a", "a-b", "x-y@z", "a@b-c.d", "a b", "a!", "#####", "!!!", "%27%20OR%201=1", "ab-", "ab\n", "äb", &long];
        for bad in bad {
            assert!(username(bad).is_err(), "{bad:.40}");
        }
    }

    #[test]
    fn passwords() {
        for good in ["123456789", "&&&&&&&&x", "correct horse battery", &"x".repeat(71)] {
            assert!(password(good).is_ok(), "{good}");
        }
        for bad in ["", "12345678", "&&&&&&&&&", "&<&<&<&<&<", "ääääää", &"x".repeat(72)] {
            assert!(password(bad).is_err(), "{bad}");
        }
    }
}
