//! The back end for KMIP servers.

mod connector;
mod pool;

use std::{fmt, fs, sync::Arc};

use async_trait::async_trait;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use keyferry_key_wrap::KeyMaterial;
use keyferry_kmip::{Attributes, Credential, NewKey, ObjectType, Payload, Request, RevocationReason, State, Version, decode, encode};
use zeroize::Zeroizing;

use self::{
    connector::{Connector, configuration},
    pool::{Effect, Pool},
};
use crate::{
    Algorithm, KeyDescription, KeyForm, KeyRef, KeySpec, KeyState, KmipConfig, Kms, KmsError, ReleaseRules, Revocation,
    check::check_identity, single_flight::SingleFlight,
};

/// Raw bytes: the only key format we read.
const KEY_FORMAT_RAW: u32 = 1;

/// Keys in a KMIP server.
///
/// Attributes and material of a key are read in one message, so that no change of state can come between them.
pub struct KmipKms {
    server: Arc<Server>,
    fetches: SingleFlight<Result<Arc<KeyMaterial>, KmsError>>,
}

struct Server {
    pool: Pool,
    version: Version,
    login: Option<Login>,
    rules: ReleaseRules,
    address: String,
}

struct Login {
    username: String,
    password: Zeroizing<String>,
}

impl KmipKms {
    /// Reads certificates and password. Connects to nothing yet.
    pub fn new(config: &KmipConfig) -> Result<Self, KmsError> {
        if !(1..=16).contains(&config.connections) {
            return Err(configuration("connections", "1 to 16 are allowed"));
        }
        let pool = Pool::new(Connector::new(config)?, config.timeouts, config.connections);
        let server =
            Server { pool, version: config.version, login: login(config)?, rules: config.release, address: config.address.clone() };
        Ok(Self { server: Arc::new(server), fetches: SingleFlight::new() })
    }
}

impl fmt::Debug for KmipKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KmipKms({}, KMIP {})", self.server.address, self.server.version)
    }
}

fn login(config: &KmipConfig) -> Result<Option<Login>, KmsError> {
    let (username, file) = match (&config.username, &config.password_file) {
        (None, None) => return Ok(None),
        (Some(username), Some(file)) => (username.clone(), file),
        _ => return Err(configuration("username", "username and password_file belong together")),
    };
    let password = fs::read_to_string(file).map(Zeroizing::new);
    let password = password.map_err(|_| KmsError::File { path: file.clone(), what: "the password file cannot be read as text" })?;
    Ok(Some(Login { username, password: Zeroizing::new(password.trim_end_matches(['\r', '\n']).to_owned()) }))
}

#[async_trait]
impl Kms for KmipKms {
    fn kind(&self) -> &'static str {
        "kmip"
    }

    async fn create(&self, spec: &KeySpec) -> Result<KeyRef, KmsError> {
        let (key, _) = self.server.make(Request::Create { key: new_key(spec) }, spec).await?;
        Ok(key)
    }

    async fn register(&self, spec: &KeySpec, material: &KeyMaterial) -> Result<KeyRef, KmsError> {
        spec.check_material(material)?;
        let request = Request::Register { key: new_key(spec), material: material.expose() };
        let (key, answer) = self.server.make(request, spec).await?;
        if answer == Answer::FoundByName {
            let found = self.fetch(&key, spec).await?;
            if verify_slices_are_equal(found.expose(), material.expose()).is_err() {
                return Err(KmsError::KeyMismatch { field: "material under this name" });
            }
        }
        Ok(key)
    }

    async fn inspect(&self, key: &KeyRef) -> Result<KeyDescription, KmsError> {
        self.server.inspect(key).await
    }

    async fn fetch(&self, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        let flight = format!("{:?}/{}/{}", spec.algorithm(), spec.length_bits(), key.as_str());
        let (server, key, spec) = (Arc::clone(&self.server), key.clone(), spec.clone());
        self.fetches.run(flight, move || async move { server.fetch(&key, &spec).await }).await
    }

    async fn revoke(&self, key: &KeyRef, why: Revocation) -> Result<(), KmsError> {
        let reason = match why {
            Revocation::Retired => RevocationReason::Superseded,
            Revocation::Compromised => RevocationReason::KeyCompromise,
        };
        self.server.change(Request::Revoke { id: key.object_id(), reason }, key).await
    }

    async fn destroy(&self, key: &KeyRef) -> Result<(), KmsError> {
        // An Active object cannot be destroyed: KMIP wants it revoked first.
        if self.server.inspect(key).await?.state == Some(KeyState::Active) {
            self.revoke(key, Revocation::Retired).await?;
        }
        self.server.change(Request::Destroy { id: key.object_id() }, key).await
    }

    async fn health(&self) -> Result<(), KmsError> {
        self.server.call(Effect::Read, &[Request::Query], |_| Ok(())).await
    }
}

/// How we learned the identifier of a new object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Received,
    FoundByName,
}

impl Server {
    async fn call<T>(
        &self,
        effect: Effect,
        requests: &[Request<'_>],
        read: impl Fn(&[Payload<'_>]) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let login = self.login.as_ref().map(|login| Credential { username: &login.username, password: &login.password });
        let frame = encode(self.version, login.as_ref(), requests).map_err(|_| KmsError::Protocol("the request would be over 1 MiB"))?;
        self.pool.call(effect, &frame, |answer| read(&decode(answer, requests)?)).await
    }

    /// A request that changes an object and answers with its identifier.
    async fn change(&self, request: Request<'_>, key: &KeyRef) -> Result<(), KmsError> {
        self.call(Effect::Write, &[request], |answers| {
            if only(answers)?.id()? == *key.object_id() { Ok(()) } else { Err(KmsError::KeyMismatch { field: "unique identifier" }) }
        })
        .await
    }

    async fn inspect(&self, key: &KeyRef) -> Result<KeyDescription, KmsError> {
        let request = Request::GetAttributes { id: key.object_id() };
        self.call(Effect::Read, &[request], |answers| {
            let found = describe(key, only(answers)?.attributes()?);
            if found.key == *key { Ok(found) } else { Err(KmsError::KeyMismatch { field: "unique identifier" }) }
        })
        .await
    }

    async fn fetch(&self, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        let id = key.object_id();
        self.call(Effect::Read, &[Request::GetAttributes { id }, Request::Get { id }], |answers| {
            let [attributes, object] = answers else { return Err(KmsError::Protocol("fewer answers than requests")) };
            self.rules.check(key, spec, &describe(key, attributes.attributes()?))?;
            read_material(key, spec, object).map(Arc::new)
        })
        .await
    }

    /// Makes an object and activates it. If the answer gets lost, looks for the object by its name.
    async fn make(&self, request: Request<'_>, spec: &KeySpec) -> Result<(KeyRef, Answer), KmsError> {
        let made = self.call(Effect::Write, &[request], |answers| Ok(KeyRef::from(only(answers)?.id()?))).await;
        let (key, answer) = match made {
            Ok(key) => (key, Answer::Received),
            Err(error) if error.connection_failed() => (self.find_lost(spec, error).await?, Answer::FoundByName),
            Err(error) => return Err(error),
        };
        match self.activate(&key, spec).await {
            Ok(()) => Ok((key, answer)),
            Err(error) => {
                // A key that nobody has a reference to; if it cannot be removed either, its name tells what it was for.
                let _ = self.change(Request::Destroy { id: key.object_id() }, &key).await;
                Err(error)
            }
        }
    }

    async fn find_lost(&self, spec: &KeySpec, lost: KmsError) -> Result<KeyRef, KmsError> {
        let Some(name) = spec.name() else { return Err(lost) };
        let found = self.call(Effect::Read, &[Request::Locate { name }], |answers| Ok(only(answers)?.ids()?)).await;
        match found.as_deref() {
            Ok([only]) => Ok(KeyRef::from(only.clone())),
            Ok([]) | Err(_) => Err(lost),
            Ok(_) => Err(KmsError::KeyMismatch { field: "name (several objects have it)" }),
        }
    }

    async fn activate(&self, key: &KeyRef, spec: &KeySpec) -> Result<(), KmsError> {
        let found = self.inspect(key).await?;
        check_identity(key, spec, &found)?;
        if found.state == Some(KeyState::Active) {
            return Ok(());
        }
        match self.change(Request::Activate { id: key.object_id() }, key).await {
            Err(error) if error.connection_failed() => match self.inspect(key).await {
                Ok(KeyDescription { state: Some(KeyState::Active), .. }) => Ok(()),
                _ => Err(error),
            },
            result => result,
        }
    }
}

fn only<'p, 'a>(answers: &'p [Payload<'a>]) -> Result<&'p Payload<'a>, KmsError> {
    if let [only] = answers { Ok(only) } else { Err(KmsError::Protocol("not exactly one answer to one request")) }
}

fn new_key(spec: &KeySpec) -> NewKey<'_> {
    NewKey { algorithm: spec.algorithm().code(), length_bits: spec.length_bits(), usage: spec.usage(), name: spec.name() }
}

/// A server that does not repeat the identifier is taken to mean the one asked for; the answer to Get must repeat it.
fn describe(asked: &KeyRef, attributes: Attributes) -> KeyDescription {
    KeyDescription {
        key: attributes.id.map_or_else(|| asked.clone(), KeyRef::from),
        form: form(attributes.object_type),
        algorithm: attributes.algorithm.and_then(algorithm),
        length_bits: attributes.length_bits.and_then(|bits| u16::try_from(bits).ok()),
        state: attributes.state.and_then(state),
        usage: attributes.usage,
    }
}

const fn form(object: Option<ObjectType>) -> KeyForm {
    match object {
        Some(ObjectType::SymmetricKey) => KeyForm::Symmetric,
        Some(ObjectType::PrivateKey) => KeyForm::Private,
        Some(ObjectType::PublicKey) => KeyForm::Public,
        _ => KeyForm::Other,
    }
}

const fn algorithm(algorithm: keyferry_kmip::Algorithm) -> Option<Algorithm> {
    match algorithm {
        keyferry_kmip::Algorithm::Aes => Some(Algorithm::Aes),
        keyferry_kmip::Algorithm::Rsa => Some(Algorithm::Rsa),
        keyferry_kmip::Algorithm::Ec | keyferry_kmip::Algorithm::Ecdsa | keyferry_kmip::Algorithm::Ecdh => Some(Algorithm::Ec),
        keyferry_kmip::Algorithm::TripleDes | keyferry_kmip::Algorithm::Other(_) => None,
    }
}

const fn state(state: State) -> Option<KeyState> {
    match state {
        State::PreActive => Some(KeyState::PreActive),
        State::Active => Some(KeyState::Active),
        State::Deactivated => Some(KeyState::Deactivated),
        State::Compromised => Some(KeyState::Compromised),
        State::Destroyed | State::DestroyedCompromised => Some(KeyState::Destroyed),
        State::Other(_) => None,
    }
}

fn read_material(wanted: &KeyRef, spec: &KeySpec, object: &Payload<'_>) -> Result<KeyMaterial, KmsError> {
    let mismatch = |field| Err(KmsError::KeyMismatch { field });
    if object.object_type()? != ObjectType::SymmetricKey {
        return mismatch("object type");
    }
    let key = object.key()?;
    if key.id != *wanted.object_id() {
        return mismatch("unique identifier");
    }
    if key.wrapped || key.format != KEY_FORMAT_RAW {
        return Err(KmsError::KeyNotReleasable);
    }
    if key.algorithm.is_some_and(|found| algorithm(found) != Some(spec.algorithm())) {
        return mismatch("algorithm");
    }
    if key.length_bits.is_some_and(|bits| bits != i32::from(spec.length_bits())) {
        return mismatch("length");
    }
    let material = KeyMaterial::new(key.material.to_vec()).map_err(|_| KmsError::KeyMismatch { field: "length" })?;
    spec.check_material(&material)?;
    Ok(material)
}
