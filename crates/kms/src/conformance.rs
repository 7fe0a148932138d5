//! One suite that every back end passes, run in the tests against a real server or a real file.
//!
//! Give [`run`] a back end that may create and destroy keys. It works on keys of its own and leaves none behind, so it
//! can also be pointed at a server before trusting it with anything.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use keyferry_key_wrap::KeyMaterial;

use crate::{Curve, KeyForm, KeyRef, KeySpec, KeyState, Kms, KmsError, Revocation, Usage, material::generate};

/// The first thing that was not as [`Kms`] promises.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {found}")]
pub struct Deviation {
    step: &'static str,
    found: String,
}

/// What a back end has by its nature. Whatever is not excused here must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Lengths of AES keys it makes, in bits.
    pub aes_lengths: &'static [u16],
    /// Whether it remembers that a revoked key had leaked. One that does not calls it deactivated.
    pub compromised_state: bool,
    /// RSA keys.
    pub rsa: Pairs,
    /// Elliptic curve keys.
    pub ec: Pairs,
}

/// What a back end does with one kind of private keys. Whatever it does not do, it must refuse in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// It makes them, and takes those that exist.
    Made,
    /// It takes those that exist.
    Registered,
    /// Neither.
    Refused,
}

impl Capabilities {
    /// All there is.
    pub const ALL: Self = Self { aes_lengths: &[128, 192, 256], compromised_state: true, rsa: Pairs::Made, ec: Pairs::Made };
}

/// Runs every step. `unique` goes into the names of the keys, so that two runs do not meet.
pub async fn run(kms: &dyn Kms, unique: &str) -> Result<(), Deviation> {
    run_within(kms, unique, Capabilities::ALL).await
}

/// Runs every step that `capabilities` has.
pub async fn run_within(kms: &dyn Kms, unique: &str, capabilities: Capabilities) -> Result<(), Deviation> {
    let suite = Suite { kms, unique };
    suite.answers().await?;
    for length_bits in capabilities.aes_lengths {
        suite.created_key_is_fetched_again(*length_bits).await?;
    }
    suite.registered_key_keeps_its_bytes().await?;
    suite.keys_are_not_confused().await?;
    suite.wrong_record_is_refused().await?;
    suite.revoked_key_is_refused(Revocation::Retired, KmsError::KeyDeactivated, KeyState::Deactivated).await?;
    let (error, state) = if capabilities.compromised_state {
        (KmsError::KeyCompromised, KeyState::Compromised)
    } else {
        (KmsError::KeyDeactivated, KeyState::Deactivated)
    };
    suite.revoked_key_is_refused(Revocation::Compromised, error, state).await?;
    let ec = |curve| (KeySpec::ec(curve), capabilities.ec);
    let rsa = (KeySpec::rsa(2048).step("key specification")?, capabilities.rsa);
    for (spec, pairs) in [rsa, ec(Curve::P256), ec(Curve::P384), ec(Curve::P521)] {
        suite.private_keys(&spec, pairs).await?;
    }
    suite.destroyed_key_is_gone().await?;
    suite.unknown_reference_is_not_found().await?;
    suite.concurrent_fetches_agree().await
}

struct Suite<'a> {
    kms: &'a dyn Kms,
    unique: &'a str,
}

fn deviation(step: &'static str, found: impl fmt::Display) -> Deviation {
    Deviation { step, found: found.to_string() }
}

#[expect(clippy::needless_pass_by_value, reason = "every caller has made both for this comparison")]
fn expect<T: PartialEq + fmt::Debug>(step: &'static str, found: T, wanted: T) -> Result<(), Deviation> {
    if found == wanted { Ok(()) } else { Err(deviation(step, format!("wanted {wanted:?}, got {found:?}"))) }
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Deviation>;
}

impl<T> Step<T> for Result<T, KmsError> {
    fn step(self, step: &'static str) -> Result<T, Deviation> {
        self.map_err(|error| deviation(step, format!("{}: {error}", error.label())))
    }
}

impl Suite<'_> {
    fn spec(&self, length_bits: u16, what: &str) -> Result<KeySpec, Deviation> {
        KeySpec::aes(length_bits).and_then(|spec| spec.named(&format!("conformance-{}-{what}", self.unique))).step("key specification")
    }

    async fn fetch(&self, key: &KeyRef, spec: &KeySpec, step: &'static str) -> Result<std::sync::Arc<KeyMaterial>, Deviation> {
        self.kms.fetch(key, spec).await.step(step)
    }

    async fn refusal(&self, key: &KeyRef, spec: &KeySpec) -> Result<(), KmsError> {
        self.kms.fetch(key, spec).await.map(drop)
    }

    async fn answers(&self) -> Result<(), Deviation> {
        self.kms.health().await.step("health")
    }

    async fn created_key_is_fetched_again(&self, length_bits: u16) -> Result<(), Deviation> {
        let spec = self.spec(length_bits, &format!("create-{length_bits}"))?;
        let key = self.kms.create(&spec).await.step("create")?;
        let found = self.kms.inspect(&key).await.step("inspect a created key")?;
        expect("state of a created key", found.state, Some(KeyState::Active))?;
        expect("length of a created key", found.length_bits, Some(length_bits))?;
        expect("usage of a created key", found.usage.map(|usage| usage.contains(Usage::DECRYPT)), Some(true))?;
        let material = self.fetch(&key, &spec, "fetch a created key").await?;
        expect("bits of a created key", material.bits(), usize::from(length_bits))?;
        let again = self.fetch(&key, &spec, "fetch it again").await?;
        expect("the same key twice", verify_slices_are_equal(material.expose(), again.expose()).is_ok(), true)?;
        self.kms.destroy(&key).await.step("destroy an active key")
    }

    async fn registered_key_keeps_its_bytes(&self) -> Result<(), Deviation> {
        let spec = self.spec(256, "register")?;
        let material = KeyMaterial::random(32).map_err(|error| deviation("random bytes", error))?;
        let key = self.kms.register(&spec, &material).await.step("register")?;
        let found = self.fetch(&key, &spec, "fetch a registered key").await?;
        expect("bytes of a registered key", verify_slices_are_equal(found.expose(), material.expose()).is_ok(), true)?;
        self.kms.destroy(&key).await.step("destroy a registered key")?;
        let short = KeyMaterial::random(16).map_err(|error| deviation("random bytes", error))?;
        let refused = self.kms.register(&spec, &short).await.map(drop);
        expect("registering 128 bits as 256", refused, Err(KmsError::KeyMismatch { field: "length" }))
    }

    async fn private_keys(&self, spec: &KeySpec, pairs: Pairs) -> Result<(), Deviation> {
        let named = |what| spec.clone().named(&format!("conformance-{}-{what}-{}", self.unique, spec.length_bits())).step("a name");
        let (made, registered) = (named("made")?, named("registered")?);
        if pairs == Pairs::Made {
            self.private_key_is_made(&made).await?;
        } else {
            self.in_order("making a key that it does not make", self.kms.create(&made).await)?;
        }
        let material = generate(spec).await.step("a private key")?;
        if pairs == Pairs::Refused {
            return self.in_order("registering a key that it does not take", self.kms.register(&registered, &material).await);
        }
        self.private_key_keeps_its_bytes(&registered, &material).await
    }

    /// Refused for a reason that no repetition changes.
    #[expect(clippy::unused_self, reason = "a step of the suite as the others are")]
    fn in_order(&self, step: &'static str, result: Result<KeyRef, KmsError>) -> Result<(), Deviation> {
        match result {
            Err(error) if !error.retryable() => Ok(()),
            Err(error) => Err(deviation(step, format!("a refusal that invites repetition: {error}"))),
            Ok(key) => Err(deviation(step, format!("it was done: {key:?}"))),
        }
    }

    async fn private_key_is_made(&self, spec: &KeySpec) -> Result<(), Deviation> {
        let key = self.kms.create(spec).await.step("create a private key")?;
        let found = self.kms.inspect(&key).await.step("inspect a private key")?;
        expect("form of a private key", found.form, KeyForm::Private)?;
        expect("algorithm of a private key", found.algorithm, Some(spec.algorithm()))?;
        expect("length of a private key", found.length_bits, Some(spec.length_bits()))?;
        expect("state of a private key", found.state, Some(KeyState::Active))?;
        let material = self.fetch(&key, spec, "fetch a private key").await?;
        spec.check_material(&material).step("a private key as PKCS#8")?;
        let symmetric = KeySpec::aes(256).step("key specification")?;
        let refused = self.refusal(&key, &symmetric).await.map_err(|error| error.label());
        expect("fetch a private key as AES", refused, Err("key_mismatch"))?;
        self.kms.revoke(&key, Revocation::Retired).await.step("revoke a private key")?;
        expect("fetch a revoked private key", self.refusal(&key, spec).await, Err(KmsError::KeyDeactivated))?;
        self.kms.destroy(&key).await.step("destroy a private key")
    }

    async fn private_key_keeps_its_bytes(&self, spec: &KeySpec, material: &KeyMaterial) -> Result<(), Deviation> {
        let key = self.kms.register(spec, material).await.step("register a private key")?;
        let found = self.fetch(&key, spec, "fetch a registered private key").await?;
        expect("bytes of a private key", verify_slices_are_equal(found.expose(), material.expose()).is_ok(), true)?;
        self.kms.destroy(&key).await.step("destroy a registered private key")?;
        let cut = KeyMaterial::new(material.expose().get(1..).unwrap_or_default().to_vec());
        let cut = cut.map_err(|error| deviation("a cut private key", error))?;
        let refused = self.kms.register(spec, &cut).await.map(drop);
        expect("registering half a private key", refused.map_err(|error| error.label()), Err("key_mismatch"))
    }

    async fn keys_are_not_confused(&self) -> Result<(), Deviation> {
        let spec = (self.spec(256, "one")?, self.spec(256, "two")?);
        let one = self.kms.create(&spec.0).await.step("create one")?;
        let two = self.kms.create(&spec.1).await.step("create two")?;
        expect("two references", one == two, false)?;
        let material = (self.fetch(&one, &spec.0, "fetch one").await?, self.fetch(&two, &spec.1, "fetch two").await?);
        expect("two keys are equal", verify_slices_are_equal(material.0.expose(), material.1.expose()).is_ok(), false)?;
        self.kms.destroy(&one).await.step("destroy one")?;
        self.fetch(&two, &spec.1, "fetch two after one is gone").await?;
        self.kms.destroy(&two).await.step("destroy two")
    }

    async fn wrong_record_is_refused(&self) -> Result<(), Deviation> {
        let (spec, wrong) = (self.spec(256, "record")?, self.spec(128, "record")?);
        let key = self.kms.create(&spec).await.step("create for a wrong record")?;
        expect("fetch with a wrong length", self.refusal(&key, &wrong).await, Err(KmsError::KeyMismatch { field: "length" }))?;
        self.kms.destroy(&key).await.step("destroy after a wrong record")
    }

    async fn revoked_key_is_refused(&self, why: Revocation, error: KmsError, state: KeyState) -> Result<(), Deviation> {
        let spec = self.spec(256, error.label())?;
        let key = self.kms.create(&spec).await.step("create for revocation")?;
        self.kms.revoke(&key, why).await.step("revoke")?;
        expect("state after revocation", self.kms.inspect(&key).await.step("inspect a revoked key")?.state, Some(state))?;
        expect("fetch a revoked key", self.refusal(&key, &spec).await, Err(error))?;
        self.kms.destroy(&key).await.step("destroy a revoked key")
    }

    async fn destroyed_key_is_gone(&self) -> Result<(), Deviation> {
        let spec = self.spec(256, "destroy")?;
        let key = self.kms.create(&spec).await.step("create for destruction")?;
        self.kms.destroy(&key).await.step("destroy")?;
        let gone = |result: Result<(), KmsError>| matches!(result, Err(KmsError::KeyNotFound | KmsError::KeyDestroyed));
        expect("a destroyed key is gone", gone(self.refusal(&key, &spec).await), true)?;
        expect("and cannot be destroyed again", gone(self.kms.destroy(&key).await), true)
    }

    async fn unknown_reference_is_not_found(&self) -> Result<(), Deviation> {
        let spec = self.spec(256, "unknown")?;
        let key = KeyRef::parse("00000000-0000-4000-8000-000000000000").step("a reference")?;
        expect("an unknown reference", self.refusal(&key, &spec).await, Err(KmsError::KeyNotFound))?;
        expect("an empty reference", KeyRef::parse("").is_err(), true)
    }

    async fn concurrent_fetches_agree(&self) -> Result<(), Deviation> {
        let spec = self.spec(256, "concurrent")?;
        let key = self.kms.create(&spec).await.step("create for many")?;
        let wanted = self.fetch(&key, &spec, "fetch alone").await?;
        for fetched in futures::future::join_all((0..32).map(|_| self.kms.fetch(&key, &spec))).await {
            let material = fetched.step("fetch among many")?;
            expect("the same key for all", verify_slices_are_equal(material.expose(), wanted.expose()).is_ok(), true)?;
        }
        self.kms.destroy(&key).await.step("destroy after many")
    }
}
