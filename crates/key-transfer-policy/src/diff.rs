//! What a new version of a policy changes: which conditions permit more than before, and which less.

use crate::{
    condition::{Condition, Test},
    document::Policy,
};

/// Whether a change lets more attesters in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Whoever met the old condition meets the new one, and others do too.
    Weakens,
    /// Whoever meets the new condition met the old one.
    Tightens,
    /// Neither includes the other: some get in that did not before, and some no longer do. Rules are compared as texts.
    Differs,
}

impl Effect {
    /// `weakens`, `tightens` or `differs`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Weakens => "weakens",
            Self::Tightens => "tightens",
            Self::Differs => "differs",
        }
    }
}

/// One condition that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The claim that is judged, as in [`crate::Comparison`].
    pub claim: &'static str,
    /// What the old policy wants; `None` = nothing.
    pub old: Option<String>,
    /// What the new policy wants; `None` = nothing.
    pub new: Option<String>,
    /// What it does.
    pub effect: Effect,
}

/// Every condition in which `new` differs from `old`. Empty: both permit the same.
pub fn diff(old: &Policy, new: &Policy) -> Vec<Change> {
    let mut changes: Vec<Change> = old.conditions.iter().filter_map(|condition| changed(condition, &new.conditions)).collect();
    let added = new.conditions.iter().filter(|condition| counterpart(condition, &old.conditions).is_none());
    changes.extend(added.map(|Condition { claim, test }| Change {
        claim,
        old: None,
        new: Some(test.describe()),
        effect: Effect::Tightens,
    }));
    changes
}

fn changed(old: &Condition, news: &[Condition]) -> Option<Change> {
    let before = Some(old.test.describe());
    let Some(new) = counterpart(old, news) else {
        return Some(Change { claim: old.claim, old: before, new: None, effect: Effect::Weakens });
    };
    let (weaker, tighter) = (old.test.implies(new)?, new.implies(&old.test)?);
    let effect = match (weaker, tighter) {
        (true, true) => return None,
        (true, false) => Effect::Weakens,
        (false, true) => Effect::Tightens,
        (false, false) => Effect::Differs,
    };
    Some(Change { claim: old.claim, old: before, new: Some(new.describe()), effect })
}

/// The condition of the same kind on the same claim.
fn counterpart<'a>(condition: &Condition, others: &'a [Condition]) -> Option<&'a Test> {
    let same = |other: &&Condition| other.claim == condition.claim && other.test.implies(&condition.test).is_some();
    others.iter().find(same).map(|other| &other.test)
}
