//! One condition of a policy: which claim, and what it must be. Parsing makes conditions, evaluation judges them, and the
//! comparison of two policies asks which of two conditions permits more.

use std::{collections::BTreeSet, sync::Arc};

use uuid::Uuid;

use crate::rego::Rule;

/// A claim and its test. A policy is the conjunction of its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    /// The claim, by its name in a token of the flat shape.
    pub(crate) claim: &'static str,
    pub(crate) test: Test,
}

/// What a claim must be. Texts are normalised: hex in lower case, times as `YYYY-MM-DDTHH:MM:SSZ`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    /// The claim is one of these. With none it never holds.
    OneOf(Vec<String>),
    /// The number is this or more.
    AtLeast(u64),
    /// Sixteen bytes in hex, each of them this or more.
    EachAtLeast([u8; 16]),
    /// The time is this or later.
    NotBefore(String),
    /// The bits of `mask` are those of `value`; both as the claim's hex reads, most significant digit first.
    Masked { mask: u64, value: u64 },
    /// Every entry of the list is one of these.
    Within(BTreeSet<String>),
    /// No entry of the list is one of these.
    NoneOf(BTreeSet<String>),
    /// At least one entry of the list is one of these.
    AnyOf(Vec<Uuid>),
    /// `data.keyferry.allow` is true.
    Rule(Arc<Rule>),
}

/// A claim's value as a condition sees it.
pub(crate) enum Got {
    Absent,
    Text(String),
    List(Vec<String>),
}

pub(crate) const ABSENT: &str = "(absent)";
const NONE: &str = "(none)";

impl Got {
    pub(crate) fn text(text: Option<&str>) -> Self {
        text.map_or(Self::Absent, |text| Self::Text(text.to_owned()))
    }
    pub(crate) fn number(number: Option<impl ToString>) -> Self {
        number.map_or(Self::Absent, |number| Self::Text(number.to_string()))
    }
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Absent => ABSENT.to_owned(),
            Self::Text(text) => text.clone(),
            Self::List(list) if list.is_empty() => NONE.to_owned(),
            Self::List(list) => list.join(" & "),
        }
    }
}

impl Test {
    /// Whether the claim passes; an absent one never does. Rules are asked elsewhere, with the whole token.
    pub(crate) fn holds(&self, got: &Got) -> bool {
        match (self, got) {
            (Self::OneOf(wanted), Got::Text(got)) => wanted.contains(got),
            (Self::AtLeast(min), Got::Text(got)) => got.parse::<u64>().is_ok_and(|got| got >= *min),
            (Self::EachAtLeast(min), Got::Text(got)) => components(got).is_some_and(|got| got.iter().zip(min).all(|(got, min)| got >= min)),
            (Self::NotBefore(min), Got::Text(got)) => instant(got).is_some_and(|got| got >= *min),
            (Self::Masked { mask, value }, Got::Text(got)) => u64::from_str_radix(got, 16).is_ok_and(|got| got & mask == *value),
            (Self::Within(allowed), Got::List(got)) => got.iter().all(|entry| allowed.contains(entry)),
            (Self::NoneOf(refused), Got::List(got)) => !got.iter().any(|entry| refused.contains(entry)),
            (Self::AnyOf(wanted), Got::List(got)) => wanted.iter().any(|id| got.contains(&id.to_string())),
            _ => false,
        }
    }

    /// For people: alternatives are joined by ` | `.
    pub(crate) fn describe(&self) -> String {
        let listed = |entries: &BTreeSet<String>| entries.iter().cloned().collect::<Vec<_>>().join(" | ");
        match self {
            Self::OneOf(wanted) if wanted.is_empty() => NONE.to_owned(),
            Self::OneOf(wanted) => wanted.join(" | "),
            Self::AtLeast(min) => format!(">= {min}"),
            Self::EachAtLeast(min) => format!("each byte >= {}", hex(min)),
            Self::NotBefore(min) => format!(">= {min}"),
            Self::Masked { mask: u64::MAX, value } => format!("{value:016x}"),
            Self::Masked { mask, value } => format!("{value:016x} in the bits of {mask:016x}"),
            Self::Within(allowed) if allowed.is_empty() => NONE.to_owned(),
            Self::Within(allowed) => format!("none but {}", listed(allowed)),
            Self::NoneOf(refused) => format!("none of {}", listed(refused)),
            Self::AnyOf(wanted) => wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "),
            Self::Rule(rule) => format!("data.keyferry.allow of the rule {}", rule.digest()),
        }
    }

    /// Whether whatever passes this one passes `other`: `None` when they are of different kinds.
    pub(crate) fn implies(&self, other: &Self) -> Option<bool> {
        Some(match (self, other) {
            (Self::OneOf(mine), Self::OneOf(others)) => mine.iter().all(|entry| others.contains(entry)),
            (Self::AtLeast(mine), Self::AtLeast(others)) => mine >= others,
            (Self::EachAtLeast(mine), Self::EachAtLeast(others)) => mine.iter().zip(others).all(|(mine, others)| mine >= others),
            (Self::NotBefore(mine), Self::NotBefore(others)) => mine >= others,
            (Self::Masked { mask, value }, Self::Masked { mask: fewer, value: others }) => {
                mask & fewer == *fewer && value & fewer == *others
            }
            (Self::Within(mine), Self::Within(others)) => mine.is_subset(others),
            (Self::NoneOf(mine), Self::NoneOf(others)) => mine.is_superset(others),
            (Self::AnyOf(mine), Self::AnyOf(others)) => mine.iter().all(|id| others.contains(id)),
            (Self::Rule(mine), Self::Rule(others)) => mine == others,
            _ => return None,
        })
    }
}

/// Sixteen bytes from 32 hex digits.
pub(crate) fn components(text: &str) -> Option<[u8; 16]> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()?;
    Some(number.to_be_bytes())
}

fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

/// `YYYY-MM-DD` or `YYYY-MM-DDTHH:MM:SSZ` in the long form, in which times sort as texts.
pub(crate) fn instant(text: &str) -> Option<String> {
    let long = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let shape = long.len() == 20
        && long.bytes().zip("0000-00-00T00:00:00Z".bytes()).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            other => byte == other,
        });
    let within = |at: usize, range: std::ops::RangeInclusive<u8>| long.get(at..at + 2)?.parse().ok().filter(|part| range.contains(part));
    let real = || Some((within(5, 1..=12)?, within(8, 1..=31)?, within(11, 0..=23)?, within(14, 0..=59)?, within(17, 0..=59)?));
    (shape && real().is_some()).then_some(long)
}
