//! The verification with what earlier ones learnt: collateral once per generation, a platform once per generation, and for
//! each quote its own signature and the match of its SVNs.
//!
//! What is remembered are facts about bytes, under a hash of all of them: a signature that verified once verifies always.
//! What changes with time is not remembered but recorded, and compared with `now` on every quote. Only successes are kept,
//! so that keys anybody can make do not push out platforms nobody can make.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use keyferry_tdx_quote::Quote;

use crate::diagnosis::Moment;
use crate::generation::{Generation, Lives};
use crate::levels::Rating;
use crate::platform::{self, Platform};
use crate::verified::VerifiedQuote;
use crate::x509::verifies_raw;
use crate::{Collateral, TcbStatus, Verifier};

/// Why a quote is not verified, as far as this needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Something does not verify or does not match.
    Refused,
    /// Something is valid only from this second on.
    NotYet(u64),
    /// Something was valid until this second.
    Over(u64),
}

impl Verifier {
    /// The whole verification except what [`Verifier::verify`] checks around it.
    pub(crate) fn judge(&self, quote: &Quote, collateral: &Collateral, now: u64) -> Result<VerifiedQuote, Fault> {
        let moment = Moment { now, grace: self.collateral_grace };
        let generation = self.generation(collateral, moment)?;
        let (platform, lives) = self.platform(&generation, quote, now).ok_or(Fault::Refused)?;
        let lives = lives.with_certificate(platform.window);
        let collateral_expired_at = lives.check(moment)?;
        let signature = quote.signature();
        let mut point = [4; 65];
        point[1..].copy_from_slice(&signature.attestation_key);
        if !verifies_raw(&point, quote.signed_bytes(), &signature.quote) {
            return Err(Fault::Refused);
        }
        let verdict = Verdict::reach(&generation, &platform, quote).ok_or(Fault::Refused)?;
        Ok(VerifiedQuote {
            quote: quote.clone(),
            tcb_status: verdict.status,
            advisory_ids: verdict.advisory_ids,
            tcb_date: verdict.date,
            evaluation_number: generation.evaluation_number,
            pck: platform.pck.identity(),
            part_digests: Arc::clone(&generation.part_digests),
            digests: OnceLock::new(),
            valid_until: lives.end,
            collateral_expired_at,
            trust_anchor: self.anchor.label().to_owned(),
        })
    }

    fn generation(&self, collateral: &Collateral, moment: Moment) -> Result<Arc<Generation>, Fault> {
        let identity = &collateral.digests().identity;
        if let Some(known) = self.generations.get(identity) {
            return Ok(known);
        }
        let generation = Generation::authenticate(&self.anchor, collateral, moment.now).ok_or(Fault::Refused)?;
        generation.lives.check(moment)?;
        let generation = Arc::new(generation);
        self.generations.insert(*identity, Arc::clone(&generation));
        Ok(generation)
    }

    fn platform(&self, generation: &Generation, quote: &Quote, now: u64) -> Option<(Platform, Lives)> {
        let key = platform::key(generation, quote);
        if let Some(known) = self.platforms.get(&key)
            && let Some(lives) = generation.issuer_lives(known.issuer, quote.certification().intermediate())
        {
            return Some((known, lives));
        }
        let first = Platform::first_sight(generation, quote, now)?;
        if first.may_be_remembered {
            self.platforms.insert(key, first.platform);
        }
        Some((first.platform, first.lives))
    }
}

/// What the SVNs of platform, module and enclave amount to.
struct Verdict {
    status: TcbStatus,
    date: String,
    advisory_ids: Vec<String>,
}

impl Verdict {
    /// `None` if no level matches, the module is not genuine or anything is revoked.
    fn reach(generation: &Generation, platform: &Platform, quote: &Quote) -> Option<Self> {
        let (body, levels) = (quote.body(), &generation.platforms);
        let enclave = generation.enclaves.rating(platform.enclave_level)?;
        let launch = levels.matched(&platform.pck, &body.tee_tcb_svn)?;
        let current = match &body.tee_tcb_svn2 {
            Some(svn) => Some(levels.matched(&platform.pck, svn)?),
            None => None,
        };
        if !levels.module_is_genuine(body) {
            return None;
        }
        let mut status = launch.status.with_component(enclave.status);
        let current_status = current.as_ref().map(|current| current.status.with_component(enclave.status));
        if status == TcbStatus::Revoked || current_status == Some(TcbStatus::Revoked) {
            return None;
        }
        if let Some(current_status) = current_status {
            status = status.relaunched(current_status);
        }
        let mut oldest = launch.oldest()?;
        if let Some(current) = &current {
            // The relaunch rule forgives what is newer at launch than now.
            status = status.worse_of(current.status);
            oldest = current.oldest().filter(|current| current.unix_date < oldest.unix_date).unwrap_or(oldest);
        }
        let ratings = launch.ratings.into_iter().chain(current.iter().flat_map(|current| current.ratings)).flatten();
        Some(Self { status, date: oldest.date.clone(), advisory_ids: advisories(ratings.chain([enclave])) })
    }
}

/// Sorted, each once.
fn advisories<'a>(ratings: impl Iterator<Item = &'a Rating>) -> Vec<String> {
    let all: BTreeSet<&str> = ratings.flat_map(|rating| &rating.advisory_ids).map(String::as_str).collect();
    all.into_iter().map(str::to_owned).collect()
}
