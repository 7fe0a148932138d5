//! Key pairs: two objects in the server, of which only the private one has a reference of ours.
//!
//! The public half is found again by the server's own link where it keeps one, and else by its name, which is that of the
//! private half with [`PUBLIC_SUFFIX`]. It goes first when a pair is destroyed: if that fails, the pair is still whole and
//! can be destroyed again.

use keyferry_key_wrap::KeyMaterial;
use keyferry_kmip::{NewKey, NewPair, ObjectName, ObjectType, RecommendedCurve, Request};
use openssl::pkey::PKey;
use uuid::Uuid;

use super::{
    connector::configuration,
    pool::Effect,
    server::{Answer, Server, only, register},
};
use crate::{Algorithm, Curve, KeyForm, KeyRef, KeySpec, KeyState, KmsError, Usage};

/// What the name of a public half has more than that of its private half.
const PUBLIC_SUFFIX: &str = "/public";

/// A specification whose name is never missing, and the name of its public half.
struct NamedPair {
    spec: KeySpec,
    private: ObjectName,
    public: ObjectName,
}

impl NamedPair {
    fn new(spec: &KeySpec) -> Result<Self, KmsError> {
        let spec = match spec.name() {
            Some(_) => spec.clone(),
            None => spec.clone().named(&format!("keyferry-{}", Uuid::new_v4()))?,
        };
        let private = spec.name().cloned().ok_or(KmsError::Internal)?;
        let public = public_name(private.as_str()).ok_or_else(|| configuration("key name", "is too long for a key pair"))?;
        Ok(Self { spec, private, public })
    }
}

fn public_name(private: &str) -> Option<ObjectName> {
    ObjectName::parse(&format!("{private}{PUBLIC_SUFFIX}")).ok()
}

const fn public_usage(spec: &KeySpec) -> Usage {
    match spec.algorithm() {
        Algorithm::Ec => Usage::VERIFY.with(Usage::KEY_AGREEMENT),
        Algorithm::Aes | Algorithm::Rsa => Usage::ENCRYPT.with(Usage::VERIFY),
    }
}

const fn recommended(curve: Curve) -> RecommendedCurve {
    match curve {
        Curve::P256 => RecommendedCurve::P256,
        Curve::P384 => RecommendedCurve::P384,
        Curve::P521 => RecommendedCurve::P521,
    }
}

impl Server {
    /// Makes a pair in the server and activates both halves.
    pub(super) async fn make_pair(&self, spec: &KeySpec) -> Result<KeyRef, KmsError> {
        let named = NamedPair::new(spec)?;
        let request = Request::CreateKeyPair {
            pair: NewPair {
                algorithm: spec.algorithm().code(),
                length_bits: spec.length_bits(),
                curve: spec.curve().map(recommended),
                private_usage: spec.usage(),
                public_usage: public_usage(spec),
                names: Some((&named.private, &named.public)),
            },
        };
        let made = self.call(Effect::SlowWrite, &[request], |answers| Ok(only(answers)?.pair()?)).await;
        let (private, public) = match made {
            Ok((private, public)) => (KeyRef::from(private), KeyRef::from(public)),
            Err(error) if error.connection_failed() => self.find_lost_pair(&named, error).await?,
            // A server says this in the words of any other wrong field.
            Err(KmsError::Protocol(_)) if spec.algorithm() == Algorithm::Ec => return Err(no_curves()),
            Err(error) => return Err(error),
        };
        self.activate_both(&named.spec, &private, &public).await.map(|()| private)
    }

    /// Brings a private key in, and its public half beside it.
    pub(super) async fn register_pair(&self, spec: &KeySpec, material: &KeyMaterial) -> Result<(KeyRef, Answer), KmsError> {
        let named = NamedPair::new(spec)?;
        let public_der = PKey::private_key_from_der(material.expose()).and_then(|pair| pair.public_key_to_der());
        let public_der = public_der.map_err(|_| KmsError::KeyMismatch { field: "format (a private key is PKCS#8)" })?;
        let (private, answer) = self.make(register(&named.spec, material), &named.spec).await?;
        let public = match answer {
            Answer::FoundByName => self.only_located(&named.public).await,
            Answer::Received => None,
        };
        if public.is_none() {
            let registered = self.register_public(&named, &public_der).await;
            if registered.is_err() {
                let _ = self.destroy_object(&private).await; // its name tells what it was for
            }
            registered?;
        }
        Ok((private, answer))
    }

    async fn register_public(&self, named: &NamedPair, der: &[u8]) -> Result<(), KmsError> {
        let spec = &named.spec;
        let (algorithm, length_bits, usage) = (spec.algorithm().code(), spec.length_bits(), public_usage(spec));
        let key = NewKey { algorithm, length_bits, usage, name: Some(&named.public) };
        let request = Request::Register { object: ObjectType::PublicKey, key, material: der };
        let public = self.call(Effect::Write, &[request], |answers| Ok(KeyRef::from(only(answers)?.id()?))).await?;
        self.activate_object(&public).await
    }

    async fn find_lost_pair(&self, named: &NamedPair, lost: KmsError) -> Result<(KeyRef, KeyRef), KmsError> {
        match (self.only_located(&named.private).await, self.only_located(&named.public).await) {
            (Some(private), Some(public)) => Ok((private, public)),
            _ => Err(lost),
        }
    }

    async fn activate_both(&self, spec: &KeySpec, private: &KeyRef, public: &KeyRef) -> Result<(), KmsError> {
        let activated = match self.activate_object(public).await {
            Ok(()) => self.activate_or_remove(private, spec).await,
            Err(error) => {
                let _ = self.destroy_object(private).await;
                Err(error)
            }
        };
        if activated.is_err() {
            let _ = self.destroy_object(public).await; // its name tells what it was for
        }
        activated
    }

    /// The public half of a private key, if the server still has it and can be sure which it is.
    async fn public_half(&self, private: &KeyRef) -> Result<Option<KeyRef>, KmsError> {
        let request = Request::GetRelations { id: private.object_id() };
        let relations = self.call(Effect::Read, &[request], |answers| Ok(only(answers)?.relations()?)).await?;
        let candidate = match (relations.public_keys.as_slice(), relations.names.as_slice()) {
            ([linked], _) => Some(KeyRef::from(linked.clone())),
            ([], [name]) => match public_name(name) {
                Some(name) => self.only_located(&name).await,
                None => None,
            },
            _ => None,
        };
        let Some(candidate) = candidate else { return Ok(None) };
        match self.inspect(&candidate).await {
            Ok(found) if found.form == KeyForm::Public => Ok(Some(candidate)),
            Ok(_) | Err(KmsError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn only_located(&self, name: &ObjectName) -> Option<KeyRef> {
        match self.locate(name).await.as_deref() {
            Ok([only]) => Some(KeyRef::from(only.clone())),
            _ => None,
        }
    }

    /// Removes an object, and with a private key its public half.
    pub(super) async fn destroy(&self, key: &KeyRef) -> Result<(), KmsError> {
        if self.inspect(key).await?.form == KeyForm::Private {
            if let Some(public) = self.public_half(key).await? {
                self.destroy_object(&public).await?;
            } else {
                tracing::warn!(key = key.as_str(), "no public half of this key was found in the KMS to destroy with it");
            }
        }
        self.destroy_object(key).await
    }

    async fn destroy_object(&self, key: &KeyRef) -> Result<(), KmsError> {
        // An Active object cannot be destroyed: KMIP wants it revoked first.
        if self.inspect(key).await?.state == Some(KeyState::Active) {
            let reason = keyferry_kmip::RevocationReason::Superseded;
            self.change(Request::Revoke { id: key.object_id(), reason }, key).await?;
        }
        self.change(Request::Destroy { id: key.object_id() }, key).await
    }
}

fn no_curves() -> KmsError {
    configuration("algorithm", "this KMIP server makes no elliptic curve keys: make the key elsewhere and register it here")
}
