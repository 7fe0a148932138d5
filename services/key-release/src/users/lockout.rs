//! Guessing is slow: so many wrong passwords, then a ban, during which even the right password is refused.
//!
//! Intel's numbers (5 attempts, one more every 5 minutes, 15 minutes of ban) under other keys. Intel counts by username
//! alone, so that anybody can lock the administrator out, and counts only users there are, which tells them apart. Here
//! it is counted by address and username, whether there is such a user or not, and by address alone, so that one address
//! cannot try a few passwords on everybody. Memory is bounded; what is forgotten first was used longest ago.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;

use crate::Denial;

/// Names and addresses remembered at the same time.
const REMEMBERED_MAX: usize = 16 * 1024;
/// An address may fail so many times as often as a name at that address: several people may be behind it.
const PER_ADDRESS: u32 = 4;

/// How often a password may be wrong.
#[derive(Clone, Copy, Debug)]
pub struct LockoutSettings {
    /// Wrong attempts in a row.
    pub attempts_max: u32,
    /// After this long, one more.
    pub attempt_interval: Duration,
    /// How long nobody gets in after one too many.
    pub lockout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Address(Option<IpAddr>),
    Name(Option<IpAddr>, [u8; 16]),
}

/// Who tries: an address, and the name it tries.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    address: Key,
    name: Key,
}

impl Attempt {
    pub(super) fn new(address: Option<IpAddr>, username: &str) -> Self {
        let address = address.map(network);
        let mut name = [0; 16];
        name.copy_from_slice(&digest(&SHA256, username.as_bytes()).as_ref()[..16]);
        Self { address: Key::Address(address), name: Key::Name(address, name) }
    }
}

/// Whoever has one IPv6 address has the 2^64 of its network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

struct Count {
    left: u32,
    /// Up to when the allowance is counted.
    since: Instant,
    banned_until: Option<Instant>,
}

/// The counts of this process. Every replica keeps its own, so that an outsider has as many allowances as there are.
pub(super) struct Lockout {
    settings: LockoutSettings,
    counts: Mutex<HashMap<Key, Count>>,
}

impl Lockout {
    pub(super) fn new(settings: LockoutSettings) -> Self {
        Self { settings, counts: Mutex::default() }
    }

    /// Refuses whoever is banned now.
    pub(super) fn check(&self, attempt: &Attempt, now: Instant) -> Result<(), Denial> {
        let mut counts = self.counts.lock();
        for key in [attempt.address, attempt.name] {
            match counts.get(&key).and_then(|count| count.banned_until) {
                Some(until) if now < until => return Err(Denial::LockedOut),
                Some(_) => drop(counts.remove(&key)), // the ban is over: everything is forgotten, as Intel does
                None => {}
            }
        }
        Ok(())
    }

    /// Counts a wrong password: [`Denial::Unauthenticated`], or [`Denial::LockedOut`] for one too many.
    pub(super) fn failed(&self, attempt: &Attempt, now: Instant) -> Denial {
        let mut counts = self.counts.lock();
        let by_name = self.count(&mut counts, attempt.name, self.settings.attempts_max, now);
        let by_address = self.count(&mut counts, attempt.address, self.settings.attempts_max.saturating_mul(PER_ADDRESS), now);
        if by_name && by_address { Denial::Unauthenticated } else { Denial::LockedOut }
    }

    /// A good login clears what was counted against the name at this address; not what other names failed there.
    pub(super) fn succeeded(&self, attempt: &Attempt) {
        self.counts.lock().remove(&attempt.name);
    }

    /// Whether one more was allowed.
    fn count(&self, counts: &mut HashMap<Key, Count>, key: Key, max: u32, now: Instant) -> bool {
        if counts.len() >= REMEMBERED_MAX && !counts.contains_key(&key) {
            self.forget(counts, now);
        }
        let count = counts.entry(key).or_insert(Count { left: max, since: now, banned_until: None });
        let interval = self.settings.attempt_interval.max(Duration::from_secs(1));
        let refills = u32::try_from(now.saturating_duration_since(count.since).as_secs() / interval.as_secs()).unwrap_or(u32::MAX);
        if refills > 0 {
            count.left = count.left.saturating_add(refills).min(max);
            count.since = now;
        }
        if count.left > 0 {
            count.left -= 1;
            return true;
        }
        count.banned_until = Some(now + self.settings.lockout);
        false
    }

    /// Drops what no longer counts; if that is nothing, the older half.
    fn forget(&self, counts: &mut HashMap<Key, Count>, now: Instant) {
        let whole = self.settings.attempt_interval.saturating_mul(self.settings.attempts_max.saturating_mul(PER_ADDRESS));
        counts.retain(|_, count| match count.banned_until {
            Some(until) => now < until,
            None => now.saturating_duration_since(count.since) < whole,
        });
        if counts.len() >= REMEMBERED_MAX {
            let mut ages: Vec<Instant> = counts.values().map(|count| count.since).collect();
            let middle = ages.len() / 2;
            let (_, &mut median, _) = ages.select_nth_unstable(middle);
            let mut surplus = middle;
            counts.retain(|_, count| {
                let old = count.since <= median && surplus > 0;
                surplus -= usize::from(old);
                !old
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const SETTINGS: LockoutSettings =
        LockoutSettings { attempts_max: 5, attempt_interval: Duration::from_mins(5), lockout: Duration::from_mins(15) };

    fn at(address: &str, name: &str) -> Attempt {
        Attempt::new(Some(address.parse().unwrap()), name)
    }

    fn fail(lockout: &Lockout, attempt: &Attempt, now: Instant) -> Denial {
        match lockout.check(attempt, now) {
            Ok(()) => lockout.failed(attempt, now),
            Err(denial) => denial,
        }
    }

    #[test]
    fn the_sixth_is_one_too_many_and_the_ban_ends() {
        let (lockout, start, who) = (Lockout::new(SETTINGS), Instant::now(), at("192.0.2.1", "admin"));
        for _ in 0..5 {
            assert!(matches!(fail(&lockout, &who, start), Denial::Unauthenticated));
        }
        assert!(matches!(fail(&lockout, &who, start), Denial::LockedOut));
        assert!(lockout.check(&who, start + 14 * MINUTE).is_err(), "the right password does not matter");
        assert!(lockout.check(&who, start + 15 * MINUTE).is_ok());
        for _ in 0..5 {
            assert!(matches!(fail(&lockout, &who, start + 15 * MINUTE), Denial::Unauthenticated), "the entry is dropped");
        }
    }

    #[test]
    fn time_and_a_good_login_give_attempts_back() {
        let (lockout, start, who) = (Lockout::new(SETTINGS), Instant::now(), at("192.0.2.1", "admin"));
        for _ in 0..5 {
            fail(&lockout, &who, start);
        }
        assert!(matches!(fail(&lockout, &who, start + 5 * MINUTE), Denial::Unauthenticated), "one more after five minutes");
        lockout.succeeded(&who);
        for _ in 0..5 {
            assert!(matches!(fail(&lockout, &who, start + 5 * MINUTE), Denial::Unauthenticated));
        }
    }

    #[test]
    fn another_address_is_another_matter_but_not_within_one_network() {
        let (lockout, now) = (Lockout::new(SETTINGS), Instant::now());
        for last in 0..6 {
            fail(&lockout, &at(&format!("2001:db8::{last}"), "admin"), now);
        }
        assert!(lockout.check(&at("2001:db8::ffff", "admin"), now).is_err());
        assert!(lockout.check(&at("2001:db8:0:1::1", "admin"), now).is_ok());
        assert!(lockout.check(&at("192.0.2.1", "admin"), now).is_ok(), "an outsider cannot lock the administrator out");
        assert!(lockout.check(&at("2001:db8::1", "other"), now).is_ok());
    }

    #[test]
    fn one_address_cannot_try_everybody() {
        let (lockout, now) = (Lockout::new(SETTINGS), Instant::now());
        for name in 0..20 {
            assert!(matches!(fail(&lockout, &at("192.0.2.1", &name.to_string()), now), Denial::Unauthenticated));
        }
        assert!(matches!(fail(&lockout, &at("192.0.2.1", "20"), now), Denial::LockedOut));
        assert!(lockout.check(&at("192.0.2.1", "fresh"), now).is_err());
        assert!(lockout.check(&at("192.0.2.2", "fresh"), now).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_forgotten_first() {
        let (lockout, start) = (Lockout::new(SETTINGS), Instant::now());
        let address = |number: u32| Attempt::new(Some(std::net::Ipv4Addr::from_bits(number).into()), "admin");
        for number in 0..40_000 {
            lockout.failed(&address(number), start + Duration::from_millis(number.into()));
        }
        assert!(lockout.counts.lock().len() <= REMEMBERED_MAX + 1);
        assert!(lockout.counts.lock().contains_key(&address(39_999).name));
        assert!(!lockout.counts.lock().contains_key(&address(0).name));
    }
}
