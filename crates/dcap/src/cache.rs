//! A bounded map that forgets what was not used lately.
//!
//! Entries sit in a ring; a hand goes round it when room is needed, passes over what was used since it last came by, and
//! replaces the first entry that was not ("clock"). One entry costs its value, its key and some thirty bytes, and nothing
//! is reserved before it is needed. Several locks, each over its own part of the keys, keep threads apart.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A SHA-256.
pub(crate) type Key = [u8; 32];

/// At most `capacity` values by key.
pub(crate) struct Cache<V> {
    shards: Vec<Mutex<Shard<V>>>,
}

struct Shard<V> {
    /// From the beginning of a key to its slot: the slot has the whole key.
    places: HashMap<u64, u32>,
    slots: Vec<Slot<V>>,
    capacity: usize,
    hand: usize,
}

struct Slot<V> {
    key: Key,
    value: V,
    used: bool,
}

impl<V> fmt::Debug for Cache<V> {
    /// Without the values, which name machines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

impl<V: Clone> Cache<V> {
    /// `capacity` is divided among `shards`, each of which holds at least one value.
    pub(crate) fn new(capacity: usize, shards: usize) -> Self {
        let shards = shards.clamp(1, 256);
        let each = capacity.div_ceil(shards).clamp(1, MAX_SLOTS);
        let shard = || Mutex::new(Shard { places: HashMap::new(), slots: Vec::new(), capacity: each, hand: 0 });
        Self { shards: std::iter::repeat_with(shard).take(shards).collect() }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<V> {
        let mut shard = self.shard(key)?;
        let place = usize::try_from(*shard.places.get(&beginning(key))?).ok()?;
        let slot = shard.slots.get_mut(place)?;
        if slot.key != *key {
            return None;
        }
        slot.used = true;
        Some(slot.value.clone())
    }

    pub(crate) fn insert(&self, key: Key, value: V) {
        if let Some(mut shard) = self.shard(&key) {
            shard.insert(Slot { key, value, used: false });
        }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).slots.len()).sum()
    }

    fn shard(&self, key: &Key) -> Option<MutexGuard<'_, Shard<V>>> {
        // The last byte, so that the keys of one shard still differ in their beginning.
        let [.., last] = *key;
        let shard = self.shards.get(usize::from(last) % self.shards.len())?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A place has 32 bits.
const MAX_SLOTS: usize = 1 << 30;

impl<V> Shard<V> {
    fn insert(&mut self, slot: Slot<V>) {
        let beginning = beginning(&slot.key);
        // The same key again, or by a chance of 2^-64 another one that begins alike: the newer one stays.
        let known = self.places.get(&beginning).and_then(|place| self.slots.get_mut(usize::try_from(*place).ok()?));
        if let Some(known) = known {
            *known = slot;
        } else if self.slots.len() < self.capacity {
            if let Ok(place) = u32::try_from(self.slots.len()) {
                self.places.insert(beginning, place);
                self.slots.push(slot);
            }
        } else {
            self.replace(slot);
        }
    }

    /// Ends after at most one round: what the hand passes over it also marks as unused.
    fn replace(&mut self, new: Slot<V>) {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len().max(1);
            let Some(slot) = self.slots.get_mut(place) else { return };
            if std::mem::take(&mut slot.used) {
                continue;
            }
            self.places.remove(&beginning(&slot.key));
            if let Ok(place) = u32::try_from(place) {
                self.places.insert(beginning(&new.key), place);
            }
            *slot = new;
            return;
        }
    }
}

fn beginning(key: &Key) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        key[31] = number.to_le_bytes()[0];
        key
    }

    #[test]
    fn it_never_holds_more_than_its_capacity_and_keeps_what_is_used() {
        let cache = Cache::new(64, 4);
        for number in 0..10_000_u32 {
            cache.insert(key(number), number);
            assert_eq!(cache.get(&key(0)), Some(0), "used all the time, {number}");
            assert!(cache.len() <= 64);
        }
        assert_eq!(cache.len(), 64);
        let kept = (0..10_000).filter(|number| cache.get(&key(*number)).is_some()).count();
        assert_eq!(kept, 64, "every value is found by its key and by no other");
    }

    #[test]
    fn a_key_that_begins_alike_is_another_key() {
        let cache = Cache::new(8, 1);
        let mut other = key(1);
        other[20] = 1;
        cache.insert(key(1), "one");
        assert_eq!(cache.get(&other), None);
        cache.insert(other, "other");
        assert_eq!((cache.get(&key(1)), cache.get(&other)), (None, Some("other")));
        cache.insert(other, "again");
        assert_eq!((cache.len(), cache.get(&other)), (1, Some("again")));
    }

    #[test]
    fn no_room_at_all_is_room_for_one() {
        let cache = Cache::new(0, 0);
        cache.insert(key(1), 1);
        cache.insert(key(2), 2);
        assert_eq!((cache.get(&key(1)), cache.get(&key(2)), cache.len()), (None, Some(2), 1));
    }
}
