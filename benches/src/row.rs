//! One figure, as the JSON array holds it and as a line of the table.

use serde::Serialize;

use crate::contest::Rate;

/// One figure. Members that are not meant are null.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) per_second: f64,
    pub(crate) bound: Option<&'static str>,
    pub(crate) bound_per_second: Option<f64>,
    pub(crate) fraction: Option<f64>,
    pub(crate) peer: Option<&'static str>,
    pub(crate) peer_per_second: Option<f64>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) notes: String,
}

impl Row {
    pub(crate) const HEADER: &'static str =
        "name                               per s   bound per s  fraction    peer per s   p50 ms   p99 ms  notes";

    /// `ours` against `bound`, and beside `peer`.
    pub(crate) fn new(
        name: &'static str,
        ours: &Rate,
        bound: Option<(&'static str, f64)>,
        peer: Option<(&'static str, f64)>,
        notes: &str,
    ) -> Self {
        let build = if cfg!(debug_assertions) { "UNOPTIMISED BUILD; " } else { "" };
        Self {
            name,
            per_second: ours.per_second,
            bound: bound.map(|(bound, _)| bound),
            bound_per_second: bound.map(|(_, rate)| rate),
            fraction: bound.map(|(_, rate)| ours.per_second / rate),
            peer: peer.map(|(peer, _)| peer),
            peer_per_second: peer.map(|(_, rate)| rate),
            p50_ms: ours.p50_ms,
            p99_ms: ours.p99_ms,
            notes: format!("{build}{notes}"),
        }
    }

    pub(crate) fn line(&self) -> String {
        let number = |number: Option<f64>, digits: usize| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"));
        format!(
            "{:30} {:>9.0} {:>13} {:>9} {:>13} {:>8.3} {:>8.3}  bound: {}; peer: {}; {}",
            self.name,
            self.per_second,
            number(self.bound_per_second, 0),
            number(self.fraction, 3),
            number(self.peer_per_second, 0),
            self.p50_ms,
            self.p99_ms,
            self.bound.unwrap_or("none"),
            self.peer.unwrap_or("none"),
            self.notes
        )
    }
}
