//! Exchanges with the server, and objects made in it.

use std::sync::Arc;

use keyferry_key_wrap::KeyMaterial;
use keyferry_kmip::{Credential, NewKey, ObjectId, Payload, Request, Version, decode, encode};

use super::{
    connector::configuration,
    identity::Identities,
    object::{describe, object_type, read_material},
    pool::{Effect, Pool},
};
use crate::{KeyDescription, KeyRef, KeySpec, KeyState, KmipConfig, KmsError, ReleaseRules, check::check_identity};

pub(super) struct Server {
    pool: Pool,
    identities: Arc<Identities>,
    version: Version,
    rules: ReleaseRules,
    pub(super) address: String,
}

/// How we learned the identifier of a new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Received,
    FoundByName,
}

impl Server {
    pub(super) fn new(config: &KmipConfig) -> Result<Self, KmsError> {
        if !(1..=16).contains(&config.connections) {
            return Err(configuration("connections", "1 to 16 are allowed"));
        }
        let identities = Arc::new(Identities::load(config)?);
        let pool = Pool::new(config.address.clone(), Arc::clone(&identities), config.timeouts, config.connections);
        Ok(Self { pool, identities, version: config.version, rules: config.release, address: config.address.clone() })
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) async fn call<T>(
        &self,
        effect: Effect,
        requests: &[Request<'_>],
        read: impl Fn(&[Payload<'_>]) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        self.identities.look_sometimes().await;
        let identity = self.identities.current();
        let login = identity.login.as_ref().map(|login| Credential { username: &login.username, password: &login.password });
        let frame = encode(self.version, login.as_ref(), requests).map_err(|_| KmsError::Protocol("the request would be over 1 MiB"))?;
        self.pool.call(effect, &frame, |answer| read(&decode(answer, requests)?)).await
    }

    /// Whether it answers, to the credentials that are in the files now.
    pub(super) async fn health(&self) -> Result<(), KmsError> {
        self.identities.look().await;
        self.call(Effect::Read, &[Request::Query], |_| Ok(())).await
    }

    /// A request that changes an object and answers with its identifier.
    pub(super) async fn change(&self, request: Request<'_>, key: &KeyRef) -> Result<(), KmsError> {
        self.call(Effect::Write, &[request], |answers| {
            if only(answers)?.id()? == *key.object_id() { Ok(()) } else { Err(KmsError::KeyMismatch { field: "unique identifier" }) }
        })
        .await
    }

    pub(super) async fn inspect(&self, key: &KeyRef) -> Result<KeyDescription, KmsError> {
        let request = Request::GetAttributes { id: key.object_id() };
        self.call(Effect::Read, &[request], |answers| {
            let found = describe(key, only(answers)?.attributes()?);
            if found.key == *key { Ok(found) } else { Err(KmsError::KeyMismatch { field: "unique identifier" }) }
        })
        .await
    }

    pub(super) async fn fetch(&self, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        let id = key.object_id();
        self.call(Effect::Read, &[Request::GetAttributes { id }, Request::Get { id }], |answers| {
            let [attributes, object] = answers else { return Err(KmsError::Protocol("fewer answers than requests")) };
            self.rules.check(key, spec, &describe(key, attributes.attributes()?))?;
            read_material(key, spec, object).map(Arc::new)
        })
        .await
    }

    /// Makes an object and activates it. If the answer gets lost, looks for the object by its name.
    pub(super) async fn make(&self, request: Request<'_>, spec: &KeySpec) -> Result<(KeyRef, Answer), KmsError> {
        let made = self.call(Effect::Write, &[request], |answers| Ok(KeyRef::from(only(answers)?.id()?))).await;
        let (key, answer) = match made {
            Ok(key) => (key, Answer::Received),
            Err(error) if error.connection_failed() => (self.find_lost(spec, error).await?, Answer::FoundByName),
            Err(error) => return Err(error),
        };
        self.activate_or_remove(&key, spec).await.map(|()| (key, answer))
    }

    /// Activates a key of ours. One that cannot be activated is removed: nobody has a reference to it.
    pub(super) async fn activate_or_remove(&self, key: &KeyRef, spec: &KeySpec) -> Result<(), KmsError> {
        let activated = self.activate(key, spec).await;
        if activated.is_err() {
            // If it cannot be removed either, its name tells what it was for.
            let _ = self.change(Request::Destroy { id: key.object_id() }, key).await;
        }
        activated
    }

    async fn find_lost(&self, spec: &KeySpec, lost: KmsError) -> Result<KeyRef, KmsError> {
        let Some(name) = spec.name() else { return Err(lost) };
        match self.locate(name).await.as_deref() {
            Ok([only]) => Ok(KeyRef::from(only.clone())),
            Ok([]) | Err(_) => Err(lost),
            Ok(_) => Err(KmsError::KeyMismatch { field: "name (several objects have it)" }),
        }
    }

    pub(super) async fn locate(&self, name: &keyferry_kmip::ObjectName) -> Result<Vec<ObjectId>, KmsError> {
        self.call(Effect::Read, &[Request::Locate { name }], |answers| Ok(only(answers)?.ids()?)).await
    }

    async fn activate(&self, key: &KeyRef, spec: &KeySpec) -> Result<(), KmsError> {
        let found = self.inspect(key).await?;
        check_identity(key, spec, &found)?;
        if found.state == Some(KeyState::Active) {
            return Ok(());
        }
        self.activate_object(key).await
    }

    pub(super) async fn activate_object(&self, key: &KeyRef) -> Result<(), KmsError> {
        match self.change(Request::Activate { id: key.object_id() }, key).await {
            Err(error) if error.connection_failed() => match self.inspect(key).await {
                Ok(KeyDescription { state: Some(KeyState::Active), .. }) => Ok(()),
                _ => Err(error),
            },
            result => result,
        }
    }
}

pub(super) fn only<'p, 'a>(answers: &'p [Payload<'a>]) -> Result<&'p Payload<'a>, KmsError> {
    if let [only] = answers { Ok(only) } else { Err(KmsError::Protocol("not exactly one answer to one request")) }
}

pub(super) fn new_key(spec: &KeySpec) -> NewKey<'_> {
    NewKey { algorithm: spec.algorithm().code(), length_bits: spec.length_bits(), usage: spec.usage(), name: spec.name() }
}

/// A request that brings the private or symmetric key of `spec` in.
pub(super) fn register<'a>(spec: &'a KeySpec, material: &'a KeyMaterial) -> Request<'a> {
    Request::Register { object: object_type(spec.form()), key: new_key(spec), material: material.expose() }
}
