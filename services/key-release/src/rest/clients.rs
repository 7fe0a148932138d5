//! How much one client may make this service do without a credential. A refused transfer costs an audit record and a
//! read of the store, a challenge a nonce of a metered verifier: each address has a budget for them. A release that
//! succeeds costs nothing here, so that many TDs behind one address are served.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Deserialize;

/// Addresses kept. When there are more, those who come last share one budget.
const CLIENTS_MAX: usize = 8192;
/// How many seconds' worth a client that was quiet may spend at once.
const BURST_SECONDS: u32 = 10;
/// How often those are forgotten whose budget is whole again, while the table is full.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What one address may cause per second, without a credential; ten times as much at once after a quiet time. IPv6
/// addresses count by their /64.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientLimits {
    /// Transfers that were refused. 1 to 10000. Default 50. Since 0.2.
    pub refused_transfers_per_second: u32,
    /// Challenges, each of which is a nonce of the verifier. 1 to 10000. Default 10. Since 0.2.
    pub challenges_per_second: u32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { refused_transfers_per_second: 50, challenges_per_second: 10 }
    }
}

/// One budget for each client.
#[derive(Debug)]
pub(super) struct Clients {
    per_second: u32,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    budgets: HashMap<Client, Budget>,
    swept: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    Address(IpAddr),
    /// Everybody for whom there is no place.
    Others,
}

/// What is left, in millionths, and when that was so.
#[derive(Debug)]
struct Budget {
    left: u64,
    at: Instant,
}

const WHOLE: u64 = 1_000_000;

impl Clients {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, table: Mutex::new(Table { budgets: HashMap::new(), swept: Instant::now() }) }
    }

    /// Whether this client may cause one more.
    pub(super) fn take(&self, address: IpAddr, now: Instant) -> bool {
        let mut table = self.table.lock();
        let client = self.place(&mut table, address, now);
        let budget = table.budgets.entry(client).or_insert_with(|| Budget { left: self.most(), at: now });
        budget.left = self.left(budget, now);
        budget.at = now;
        let enough = budget.left >= WHOLE;
        if enough {
            budget.left -= WHOLE;
        }
        enough
    }

    /// What was taken was not needed.
    pub(super) fn give_back(&self, address: IpAddr) {
        let mut table = self.table.lock();
        let client = Client::Address(masked(address));
        let client = if table.budgets.contains_key(&client) { client } else { Client::Others };
        if let Some(budget) = table.budgets.get_mut(&client) {
            budget.left = budget.left.saturating_add(WHOLE).min(self.most());
        }
    }

    fn place(&self, table: &mut Table, address: IpAddr, now: Instant) -> Client {
        let client = Client::Address(masked(address));
        if table.budgets.contains_key(&client) {
            return client;
        }
        if table.budgets.len() >= CLIENTS_MAX && now.saturating_duration_since(table.swept) >= SWEEP_INTERVAL {
            table.swept = now;
            table.budgets.retain(|_, budget| self.left(budget, now) < self.most());
        }
        if table.budgets.len() < CLIENTS_MAX { client } else { Client::Others }
    }

    fn left(&self, budget: &Budget, now: Instant) -> u64 {
        let elapsed = u64::try_from(now.saturating_duration_since(budget.at).as_micros()).unwrap_or(u64::MAX);
        budget.left.saturating_add(elapsed.saturating_mul(self.per_second.into())).min(self.most())
    }

    fn most(&self) -> u64 {
        WHOLE * u64::from(self.per_second) * u64::from(BURST_SECONDS)
    }
}

/// Whoever has an IPv6 address has a /64.
fn masked(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_budget_ends_comes_back_and_is_nobody_elses() {
        let (clients, start) = (Clients::new(1), Instant::now());
        let taken = |at| (0..20).filter(|_| clients.take(address(1), at)).count();
        assert_eq!(taken(start), 10);
        assert!(clients.take(address(2), start));
        clients.give_back(address(1));
        assert_eq!(taken(start), 1, "what was given back");
        assert_eq!(taken(start + Duration::from_secs(3)), 3);
    }

    #[test]
    fn one_network_is_one_client() {
        let (clients, now) = (Clients::new(1), Instant::now());
        let taken = (0..20_u16).filter(|host| clients.take(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, *host).into(), now)).count();
        assert_eq!(taken, 10);
        assert!(clients.take("2001:db8:0:1::".parse().unwrap(), now));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_quiet() {
        let (clients, now) = (Clients::new(1), Instant::now());
        let many = u32::try_from(CLIENTS_MAX).unwrap();
        for number in 0..many + 100 {
            clients.take(address(number), now);
        }
        assert_eq!(clients.table.lock().budgets.len(), CLIENTS_MAX + 1, "and the others");
        assert!(!clients.take(address(many + 100), now), "the last ones share");
        let later = now + Duration::from_mins(1);
        assert!(clients.take(address(many + 100), later));
        assert_eq!(clients.table.lock().budgets.len(), 1);
    }
}
