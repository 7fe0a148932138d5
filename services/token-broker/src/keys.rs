//! What tokens are signed with, and what relying parties verify them with: the key directory, followed while it changes.
//!
//! Every replica that shares the directory looks at it once a minute, renews the signing CA's revocation list and, where
//! that is configured, rotates the signing key. A next key is published for a while before it signs, and the one before
//! until its last token has ended.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use keyferry_attestation_token::{Algorithm, SigningKey, TokenIssuer, jwks};
use keyferry_lifecycle::{During, StartError, clock};
use keyferry_verifier_keys::{Contents, KeyDirectory, KeysError, SealKey, read_signing_key};
use zeroize::Zeroizing;

use crate::config::TokenConfig;

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_mins(1);

/// The keys of this verifier and its replicas.
#[derive(Debug)]
pub(crate) struct Keys {
    directory: KeyDirectory,
    settings: Settings,
    nonce: Zeroizing<Vec<u8>>,
    current: ArcSwap<Generation>,
}

#[derive(Clone, Debug)]
struct Settings {
    algorithm: Algorithm,
    issuer: String,
    lifetime_seconds: u64,
    rotation: Option<(u64, u64)>,
    /// A key of the operator's own in place of the directory's: it is neither rotated nor withdrawn here.
    own_key: bool,
}

/// What the directory held when it was last read.
#[derive(Debug)]
struct Generation {
    keys: Vec<Scheduled>,
    crls: Vec<(&'static str, Vec<u8>)>,
    fingerprint: Vec<u8>,
}

/// One key under each algorithm that it serves; the configured one comes first.
#[derive(Debug)]
struct Scheduled {
    issuers: Vec<Arc<TokenIssuer>>,
    signs_from: u64,
    retires_at: Option<u64>,
}

impl Keys {
    /// Makes the directory at the first start and reads it. Blocks: with RSA the first start generates three keys.
    pub(crate) fn open(config: &TokenConfig, now: u64) -> Result<Self, StartError> {
        let seal = config.seal_key_file.as_ref().map(|path| SealKey::load(path)).transpose().during("reading token.seal_key_file")?;
        let own = config.signing_key_file.as_ref().zip(config.signing_chain_file.as_ref());
        let own = own.map(|(key, chain)| read_signing_key(key, chain, config.algorithm, seal.as_ref())).transpose();
        let own = own.during("reading token.signing_key_file")?;
        let directory = KeyDirectory::new(&config.key_directory, seal);
        let settings = Settings {
            algorithm: config.algorithm,
            issuer: config.issuer.clone(),
            lifetime_seconds: config.lifetime_seconds,
            rotation: config.rotation_seconds.map(|interval| (interval, config.publish_ahead_seconds)),
            own_key: own.is_some(),
        };
        let generation = if let Some(key) = own {
            Generation::of_key(&settings, &key)
        } else {
            directory.make(config.algorithm, config.crl_base_url().as_deref(), now).during("opening token.key_directory")?;
            Generation::read(&directory, &settings).during("opening token.key_directory")?
        };
        let nonce = directory.nonce_key().during("opening token.key_directory")?;
        Ok(Self { directory, settings, nonce, current: ArcSwap::from_pointee(generation) })
    }

    /// Authenticates nonces and redemption records.
    pub(crate) fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// The algorithms that a token can be asked for; the first is used when none is.
    pub(crate) fn algorithms(&self) -> Vec<Algorithm> {
        let current = self.current.load();
        let first = current.keys.first().map_or(&[][..], |key| &key.issuers[..]);
        first.iter().map(|issuer| issuer.key().algorithm()).collect()
    }

    /// Who signs at `now` (Unix seconds) with this algorithm, or with the configured one.
    pub(crate) fn issuer(&self, wanted: Option<Algorithm>, now: u64) -> Option<Arc<TokenIssuer>> {
        let current = self.current.load();
        let key = current.keys.iter().rev().find(|key| key.signs_from <= now).or_else(|| current.keys.first())?;
        let wanted = wanted.unwrap_or(self.settings.algorithm);
        key.issuers.iter().find(|issuer| issuer.key().algorithm() == wanted).cloned()
    }

    /// The key set at `now`: every key that signs, will sign, or has signed a token that may still be good.
    pub(crate) fn jwks(&self, now: u64) -> String {
        let current = self.current.load();
        let published = current.keys.iter().filter(|key| key.retires_at.is_none_or(|at| now < at));
        jwks(published.flat_map(|key| &key.issuers).map(|issuer| issuer.key()))
    }

    /// A revocation list by its name in the address.
    pub(crate) fn revocation_list(&self, name: &str) -> Option<Vec<u8>> {
        self.current.load().crls.iter().find(|(known, _)| *known == name).map(|(_, der)| der.clone())
    }

    /// Looks after the directory until `cancelled`.
    pub(crate) async fn follow(self: Arc<Self>, cancelled: impl Future<Output = ()>) {
        if self.settings.own_key {
            return;
        }
        tokio::pin!(cancelled);
        loop {
            let keys = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || keys.look(clock::now())).await {
                Ok(Err(error)) => tracing::error!(%error, "the key directory could not be looked after: what was read last stays in force"),
                Err(error) => tracing::error!(%error, "looking after the key directory was cut off"),
                Ok(Ok(())) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = &mut cancelled => return,
            }
        }
    }

    fn look(&self, now: u64) -> Result<(), KeysError> {
        if self.directory.renew_crl(now)? {
            tracing::info!("the signing CA's revocation list was renewed");
        }
        if let Some((interval, ahead)) = self.settings.rotation
            && let Some(rotation) = self.directory.rotate_if_due(interval, ahead, now)?
        {
            tracing::info!(kid = rotation.kid, signs_from = rotation.signs_from, "a next signing key was published");
        }
        if self.directory.fingerprint()? != self.current.load().fingerprint {
            self.current.store(Arc::new(Generation::read(&self.directory, &self.settings)?));
            tracing::info!("the signing keys were read again");
        }
        Ok(())
    }
}

impl Generation {
    fn read(directory: &KeyDirectory, settings: &Settings) -> Result<Self, KeysError> {
        let Contents { keys, crls, fingerprint } = directory.read(settings.algorithm)?;
        let scheduled = keys.into_iter().map(|entry| {
            let issuers = issuers(settings, &entry.key)?;
            Ok(Scheduled { issuers, signs_from: entry.signs_from, retires_at: entry.retires_at })
        });
        Ok(Self { keys: scheduled.collect::<Result<_, KeysError>>()?, crls, fingerprint })
    }

    fn of_key(settings: &Settings, key: &SigningKey) -> Self {
        let issuers = issuers(settings, key).unwrap_or_default();
        Self { keys: vec![Scheduled { issuers, signs_from: 0, retires_at: None }], crls: Vec::new(), fingerprint: Vec::new() }
    }
}

/// An RSA key serves Intel's two algorithms, each under a key name of its own.
fn issuers(settings: &Settings, key: &SigningKey) -> Result<Vec<Arc<TokenIssuer>>, KeysError> {
    let mut algorithms = vec![settings.algorithm];
    algorithms.extend(
        [Algorithm::Ps384, Algorithm::Rs256].into_iter().filter(|other| settings.algorithm.is_rsa() && *other != settings.algorithm),
    );
    let issuer = |algorithm| {
        let key = key.signing_with(algorithm)?;
        Ok(Arc::new(TokenIssuer::new(&settings.issuer, key, settings.lifetime_seconds)))
    };
    algorithms.into_iter().map(issuer).collect()
}

#[cfg(test)]
mod tests {
    use keyferry_verifier_keys::CRL_NAMES;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn config(directory: &std::path::Path) -> TokenConfig {
        let config = serde_json::json!({
            "issuer": "https://broker.test", "key_directory": directory, "algorithm": "ES256",
            "rotation_seconds": 100_000, "publish_ahead_seconds": 1000,
        });
        serde_json::from_value(config).unwrap()
    }

    fn kids(jwks: &str) -> Vec<String> {
        let set: serde_json::Value = serde_json::from_str(jwks).unwrap();
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_until_its_last_token_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::open(&config(directory.path()), NOW).unwrap();
        let signer = |now| keys.issuer(None, now).unwrap().key().kid().to_owned();
        let first = signer(NOW);
        keys.look(NOW + 98_000).unwrap();
        assert_eq!(kids(&keys.jwks(NOW + 98_000)), std::slice::from_ref(&first), "not due yet");
        keys.look(NOW + 99_500).unwrap();
        let published = kids(&keys.jwks(NOW + 99_500));
        assert_eq!((published.len(), &published[0]), (2, &first));
        assert_eq!(signer(NOW + 100_499), first);
        assert_eq!(signer(NOW + 100_500), published[1]);
        assert_eq!(kids(&keys.jwks(NOW + 100_500)), published);
        let later = NOW + 100_500 + keyferry_verifier_keys::RETIRED_AFTER_SECONDS;
        assert_eq!(kids(&keys.jwks(later)), published[1..]);
        let replica = Keys::open(&config(directory.path()), NOW + 100_500).unwrap();
        assert_eq!((replica.jwks(NOW), replica.nonce()), (keys.jwks(NOW), keys.nonce()));
    }

    #[test]
    fn an_rsa_key_serves_both_of_intels_algorithms() {
        let directory = tempfile::tempdir().unwrap();
        let config = TokenConfig { algorithm: Algorithm::Ps384, ..config(directory.path()) };
        let keys = Keys::open(&config, NOW).unwrap();
        assert_eq!(keys.algorithms(), [Algorithm::Ps384, Algorithm::Rs256]);
        let kid = |algorithm| keys.issuer(Some(algorithm), NOW).map(|issuer| issuer.key().kid().to_owned());
        assert_ne!(kid(Algorithm::Ps384), kid(Algorithm::Rs256));
        assert_eq!(kid(Algorithm::Es256), None);
        assert_eq!(kids(&keys.jwks(NOW)).len(), 2);
        assert!(CRL_NAMES.iter().all(|name| keys.revocation_list(name).is_some()));
        assert_eq!(keys.revocation_list("../ca.key"), None);
    }
}
