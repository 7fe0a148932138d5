//! Which key signs when: `keyring.json`.

use serde::{Deserialize, Serialize};

/// The longest life a token can be configured to have.
pub const TOKEN_SECONDS_MAX: u64 = 3600;
/// A key stays published this long after the next one began to sign: its last token has ended then, by every clock.
pub const RETIRED_AFTER_SECONDS: u64 = TOKEN_SECONDS_MAX + 600;
const VERSION: u32 = 1;

/// One signing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// The number in the names of its files.
    pub(crate) number: u32,
    /// From when on it signs, in unix seconds.
    pub(crate) signs_from: u64,
}

/// All signing keys, in the order in which they sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ring {
    version: u32,
    /// Where the revocation lists are fetched, without their names.
    pub(crate) crl_base_url: Option<String>,
    pub(crate) keys: Vec<Entry>,
}

impl Ring {
    pub(crate) fn new(crl_base_url: Option<String>, now: u64) -> Self {
        Self { version: VERSION, crl_base_url, keys: vec![Entry { number: 1, signs_from: now }] }
    }

    /// `None` if this is no ring of ours.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        let ring: Self = serde_json::from_slice(json).ok()?;
        let in_order = ring.keys.is_sorted_by(|one, next| one.signs_from < next.signs_from && one.number < next.number);
        (ring.version == VERSION && !ring.keys.is_empty() && in_order).then_some(ring)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// The key that signs last.
    pub(crate) fn last(&self) -> Option<&Entry> {
        self.keys.last()
    }

    /// When the key at this place is no longer needed; `None` while there is no other after it.
    pub(crate) fn retires_at(&self, index: usize) -> Option<u64> {
        self.keys.get(index + 1).map(|next| next.signs_from.saturating_add(RETIRED_AFTER_SECONDS))
    }

    /// Adds a key that signs from then on.
    pub(crate) fn append(&mut self, number: u32, signs_from: u64) {
        self.keys.push(Entry { number, signs_from });
    }

    /// Takes out the keys that are no longer needed.
    pub(crate) fn prune(&mut self, now: u64) -> Vec<Entry> {
        let mut retired = Vec::new();
        while self.retires_at(0).is_some_and(|at| at <= now) {
            retired.push(self.keys.remove(0));
        }
        retired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_needed_until_the_last_token_of_it_has_ended() {
        let mut ring = Ring::new(None, 1000);
        assert_eq!(ring.retires_at(0), None);
        assert!(ring.prune(u64::MAX).is_empty(), "the only key stays");
        ring.append(2, 2000);
        let end = 2000 + RETIRED_AFTER_SECONDS;
        assert_eq!((ring.retires_at(0), ring.retires_at(1)), (Some(end), None));
        assert!(ring.prune(end - 1).is_empty());
        assert_eq!(ring.prune(end), [Entry { number: 1, signs_from: 1000 }]);
        assert_eq!(Ring::parse(&ring.to_json()), Some(ring));
    }

    #[test]
    fn what_is_no_ring_is_not_taken_for_one() {
        let ring = |version: u32, keys: &[(u32, u64)]| {
            let keys = keys.iter().map(|&(number, signs_from)| Entry { number, signs_from }).collect();
            Ring::parse(&Ring { version, crl_base_url: None, keys }.to_json())
        };
        assert!(ring(1, &[(1, 5), (2, 6)]).is_some());
        for (version, keys) in [(2, &[(1, 5)][..]), (1, &[]), (1, &[(1, 5), (2, 5)]), (1, &[(2, 5), (1, 6)]), (1, &[(1, 6), (2, 5)])] {
            assert!(ring(version, keys).is_none(), "{version} {keys:?}");
        }
        assert!(Ring::parse(b"{}").is_none() && Ring::parse(b"").is_none());
    }
}
