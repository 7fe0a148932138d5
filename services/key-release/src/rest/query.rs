//! Query strings of searches: some key is needed, and only known ones may be there.

use std::collections::BTreeMap;

use crate::{Denial, records::Page};

/// Keys of one query.
const KEYS_MAX: usize = 50;

/// The first value of each key.
pub(super) fn parse(query: Option<&str>, known: &[&str]) -> Result<BTreeMap<String, String>, Denial> {
    let wrong = || Denial::malformed("query:", format!("needs at least one of {}, and nothing else", known.join(", ")));
    let mut values = BTreeMap::new();
    for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if values.len() >= KEYS_MAX || !known.contains(&key.as_ref()) {
            return Err(wrong());
        }
        values.entry(key.into_owned()).or_insert_with(|| value.into_owned());
    }
    if values.is_empty() { Err(wrong()) } else { Ok(values) }
}

/// The same where any key is taken and none is needed.
pub(super) fn lenient(query: Option<&str>) -> BTreeMap<String, String> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.take(KEYS_MAX).map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
}

/// Which part of a list is wanted: everything, unless a size is given.
pub(super) struct Wanted<Id> {
    after: Option<Id>,
    size: Option<u32>,
}

/// Entries read at once when everything is wanted.
const EVERYTHING_BY: u32 = 1000;

/// Reads the keys `names`: behind which id to begin, and how many are wanted (1 to 1000).
pub(super) fn page<Id, E>(
    query: &BTreeMap<String, String>,
    names: (&'static str, &'static str),
    parse: impl Fn(&str) -> Result<Id, E>,
) -> Result<Wanted<Id>, Denial> {
    let value = |name: &str| query.get(name).filter(|value| !value.is_empty());
    let after = value(names.0).map(|text| parse(text).map_err(|_| Denial::malformed(names.0, "must be an id")));
    let size = value(names.1).map(|text| match text.parse() {
        Ok(size) if (1..=EVERYTHING_BY).contains(&size) => Ok(size),
        _ => Err(Denial::malformed(names.1, format!("must be 1 to {EVERYTHING_BY}"))),
    });
    Ok(Wanted { after: after.transpose()?, size: size.transpose()? })
}

impl<Id> Wanted<Id> {
    /// The next part to read.
    pub(super) fn next(&mut self) -> Page<Id> {
        Page { after: self.after.take(), size: self.size.unwrap_or(EVERYTHING_BY) }
    }

    /// Whether there is more, and it is wanted.
    pub(super) fn goes_on(&mut self, next: Option<Id>) -> bool {
        self.after = next;
        self.size.is_none() && self.after.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_names_what_it_searches() {
        let parsed = |query| parse(query, &["username", "x"]).ok();
        assert_eq!(parsed(Some("username=a%40b&username=c")).unwrap()["username"], "a@b");
        assert_eq!(parsed(Some("username=")).unwrap()["username"], "");
        for query in [None, Some(""), Some("other=1"), Some("username=a&other=1"), Some("USERNAME=a")] {
            assert!(parsed(query).is_none(), "{query:?}");
        }
    }
}
