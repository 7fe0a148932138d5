//! The first cached level: one generation of collateral under one root, authenticated and compiled once.
//!
//! Everything here follows from the bytes of collateral and root alone, whatever the time: which time it is good for is
//! data ([`Generation::lives`]), asked again for each quote. A generation is never changed, other bytes are another
//! generation.

use std::sync::{Arc, OnceLock};

use crate::cached::Fault;
use crate::collateral::{PartDigests, Window, sha256};
use crate::diagnosis::{self, Moment};
use crate::levels::{EnclaveRules, PlatformRules};
use crate::pki::{self, Details, SerialNumbers};
use crate::x509::verifies_raw;
use crate::{Collateral, TrustAnchor};

/// Intel has one platform CA and one processor CA; one list is of one of them, which may have been renewed.
const ISSUERS: usize = 4;

/// One generation of collateral under one root.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Root and collateral: two generations are the same only if all their bytes are.
    pub(crate) key: [u8; 32],
    pub(crate) platforms: PlatformRules,
    pub(crate) enclaves: EnclaveRules,
    pub(crate) lives: Lives,
    pub(crate) part_digests: Arc<PartDigests>,
    pub(crate) evaluation_number: u32,
    pub(crate) fmspc: [u8; 6],
    pub(crate) pce_id: [u8; 2],
    root: Vec<u8>,
    root_crl: SerialNumbers,
    pck_crl: Vec<u8>,
    issuers: [OnceLock<Issuer>; ISSUERS],
}

/// How long things live: items of collateral, which a grace may prolong, and certificates, which nothing prolongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lives {
    pub(crate) items: Window,
    pub(crate) certificates: Window,
    /// The earliest end of all, as written there: a revocation list writes the second after its last one.
    pub(crate) end: u64,
}

/// A PCK issuer under the root, with the list of what it revoked.
#[derive(Debug)]
pub(crate) struct Issuer {
    der: Vec<u8>,
    name: Vec<u8>,
    revoked: SerialNumbers,
    lives: Lives,
}

impl Generation {
    /// `None` unless every signature is good, the signers are neither revoked nor outside their validity at `now`, and both
    /// documents are of the right kind. Four ECDSA verifications.
    pub(crate) fn authenticate(anchor: &TrustAnchor, collateral: &Collateral, now: u64) -> Option<Self> {
        let parts = collateral.for_engine();
        let root = Details::of(anchor.root_der())?;
        let root_crl = SerialNumbers::of(&parts.root_ca_crl, &root)?;
        if root_crl.list(&root) {
            return None;
        }
        let mut lives = Lives { items: root_crl.window, certificates: root.window, end: root_crl.next_update.min(root.window.until) };
        let mut known: Option<(&[u8], Details)> = None;
        for (chain, text, signature, window) in [
            (collateral.tcb_info_chain(), &parts.tcb_info, &parts.tcb_info_signature, collateral.tcb_info_window()),
            (collateral.qe_identity_chain(), &parts.qe_identity, &parts.qe_identity_signature, collateral.qe_identity_window()),
        ] {
            let der = chain.first()?;
            // One certificate signs both.
            let signer = match known.take() {
                Some((known, signer)) if known == der => signer,
                _ => signer(der, anchor.root_der(), &root_crl, now)?,
            };
            if !verifies_raw(&signer.point, text.as_bytes(), signature) {
                return None;
            }
            lives = lives.with_certificate(signer.window).with_item(window, window.until);
            known = Some((der, signer));
        }
        diagnosis::check_kinds(collateral).ok()?;
        let mut pce_id = [0; 2];
        hex::decode_to_slice(&collateral.tcb_info().pce_id, &mut pce_id).ok()?;
        Some(Self {
            key: sha256(&[sha256(anchor.root_der()), collateral.digests().identity].concat()),
            platforms: PlatformRules::of(collateral.tcb_info()),
            enclaves: EnclaveRules::of(collateral.qe_identity()),
            lives,
            part_digests: Arc::clone(collateral.digests()),
            evaluation_number: collateral.evaluation_number(),
            fmspc: collateral.fmspc(),
            pce_id,
            root: anchor.root_der().to_vec(),
            root_crl,
            pck_crl: parts.pck_crl.clone(),
            issuers: std::array::from_fn(|_| OnceLock::new()),
        })
    }

    /// Checks a PCK certificate with its issuer at `now`: under a known issuer one ECDSA verification, else three. Answers
    /// how long collateral and issuer live and, if the issuer is known from now on, its number.
    pub(crate) fn check_pck(&self, leaf: &[u8], leaf_details: &Details, intermediate: &[u8], now: u64) -> Option<(Lives, Option<u8>)> {
        if let Some((number, issuer)) = self.known(intermediate) {
            pki::check_issued(leaf, &issuer.der, now)?;
            return issuer.vouches_for(leaf_details).then_some((issuer.lives, Some(number)));
        }
        pki::check_issued_through(leaf, intermediate, &self.root, now)?;
        let details = Details::of(intermediate)?;
        if self.root_crl.list(&details) {
            return None;
        }
        let revoked = SerialNumbers::of(&self.pck_crl, &details)?;
        let lives = self.lives.with_certificate(details.window).with_item(revoked.window, revoked.next_update);
        let issuer = Issuer { der: intermediate.to_vec(), name: details.subject, revoked, lives };
        issuer.vouches_for(leaf_details).then(|| (lives, self.keep(issuer)))
    }

    /// How long collateral and issuer live, if `intermediate` is the issuer with this number.
    pub(crate) fn issuer_lives(&self, number: u8, intermediate: &[u8]) -> Option<Lives> {
        let issuer = self.issuers.get(usize::from(number))?.get()?;
        (issuer.der == intermediate).then_some(issuer.lives)
    }

    fn known(&self, intermediate: &[u8]) -> Option<(u8, &Issuer)> {
        (0..).zip(&self.issuers).find_map(|(number, slot)| Some((number, slot.get().filter(|issuer| issuer.der == intermediate)?)))
    }

    /// In the first free place. Without one the issuer is as good, but nothing under it is remembered.
    fn keep(&self, mut issuer: Issuer) -> Option<u8> {
        for (number, slot) in (0..).zip(&self.issuers) {
            match slot.set(issuer) {
                Ok(()) => return Some(number),
                Err(returned) => issuer = returned,
            }
            if slot.get().is_some_and(|kept| kept.der == issuer.der) {
                return Some(number);
            }
        }
        None
    }
}

fn signer(der: &[u8], root: &[u8], root_crl: &SerialNumbers, now: u64) -> Option<Details> {
    pki::check_issued(der, root, now)?;
    let signer = Details::of(der)?;
    (!root_crl.list(&signer)).then_some(signer)
}

impl Issuer {
    /// Whether a certificate that this issuer signed is its own and not revoked.
    fn vouches_for(&self, leaf: &Details) -> bool {
        leaf.issuer == self.name && !self.revoked.list(leaf)
    }
}

impl Lives {
    pub(crate) fn with_certificate(self, window: Window) -> Self {
        Self { certificates: self.certificates.and(window), end: self.end.min(window.until), ..self }
    }

    fn with_item(self, window: Window, end: u64) -> Self {
        Self { items: self.items.and(window), end: self.end.min(end), ..self }
    }

    /// Whether everything is valid at `now`: then the end of what only the grace keeps alive, if there is such a thing.
    pub(crate) fn check(&self, moment: Moment) -> Result<Option<u64>, Fault> {
        let Moment { now, grace } = moment;
        let from = self.items.from.max(self.certificates.from);
        if now < from {
            return Err(Fault::NotYet(from));
        }
        if now > self.certificates.until {
            return Err(Fault::Over(self.certificates.until));
        }
        if now > self.items.until.saturating_add(grace) {
            return Err(Fault::Over(self.items.until));
        }
        Ok((now > self.items.until).then_some(self.items.until))
    }
}
