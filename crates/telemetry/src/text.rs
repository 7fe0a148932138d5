//! Caps for texts that leave the process: the SDK enforces no length limit of its own.

use std::borrow::Cow;

/// The longest attribute value, in bytes.
pub(crate) const ATTRIBUTE_BYTES_MAX: usize = 256;
/// The longest label value, in bytes.
const LABEL_BYTES_MAX: usize = 96;

pub(crate) fn attribute(value: &str) -> String {
    clean(value, ATTRIBUTE_BYTES_MAX).into_owned()
}

pub(crate) fn label(value: &str) -> String {
    clean(value, LABEL_BYTES_MAX).into_owned()
}

/// At most `max` bytes of `value`, cut between characters, control characters replaced.
pub(crate) fn clean(value: &str, max: usize) -> Cow<'_, str> {
    let end = value.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= max).last().unwrap_or(0);
    let cut = value.get(..end).unwrap_or_default();
    if cut.chars().any(char::is_control) { Cow::Owned(cut.replace(char::is_control, "?")) } else { Cow::Borrowed(cut) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_hostile_texts_are_cut_and_cleaned() {
        assert_eq!(clean("plain", 10), "plain");
        assert_eq!(clean("a\r\nb", 10), "a??b");
        assert_eq!(clean("ééé", 5), "éé");
        assert_eq!(clean("", 5), "");
    }
}
