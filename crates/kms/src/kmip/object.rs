//! What a server says about an object, in our words.

use keyferry_key_wrap::KeyMaterial;
use keyferry_kmip::{Attributes, KeyFormat, ObjectType, Payload, State};
use openssl::{ec::EcKey, pkey::PKey, rsa::Rsa};
use zeroize::Zeroizing;

use crate::{Algorithm, KeyDescription, KeyForm, KeyRef, KeySpec, KeyState, KmsError};

/// A server that does not repeat the identifier is taken to mean the one asked for; the answer to Get must repeat it.
pub(super) fn describe(asked: &KeyRef, attributes: Attributes) -> KeyDescription {
    KeyDescription {
        key: attributes.id.map_or_else(|| asked.clone(), KeyRef::from),
        form: attributes.object_type.map_or(KeyForm::Other, form),
        algorithm: attributes.algorithm.and_then(algorithm),
        length_bits: attributes.length_bits.and_then(|bits| u16::try_from(bits).ok()),
        state: attributes.state.and_then(state),
        usage: attributes.usage,
    }
}

/// The type of the object that holds such keys.
pub(super) const fn object_type(form: KeyForm) -> ObjectType {
    match form {
        KeyForm::Private => ObjectType::PrivateKey,
        KeyForm::Public => ObjectType::PublicKey,
        KeyForm::Symmetric | KeyForm::Other => ObjectType::SymmetricKey,
    }
}

const fn form(object: ObjectType) -> KeyForm {
    match object {
        ObjectType::SymmetricKey => KeyForm::Symmetric,
        ObjectType::PrivateKey => KeyForm::Private,
        ObjectType::PublicKey => KeyForm::Public,
        _ => KeyForm::Other,
    }
}

/// Some servers call an elliptic curve key by what it is used for.
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

/// The key in the answer to a Get, if it is the one that was asked for.
pub(super) fn read_material(wanted: &KeyRef, spec: &KeySpec, object: &Payload<'_>) -> Result<KeyMaterial, KmsError> {
    let mismatch = |field| Err(KmsError::KeyMismatch { field });
    if object.object_type()? != object_type(spec.form()) {
        return mismatch("object type");
    }
    let key = object.key()?;
    if key.id != *wanted.object_id() {
        return mismatch("unique identifier");
    }
    let (false, Some(bytes)) = (key.wrapped, key.material) else { return Err(KmsError::KeyNotReleasable) };
    if key.algorithm.is_some_and(|found| algorithm(found) != Some(spec.algorithm())) {
        return mismatch("algorithm");
    }
    if key.length_bits.is_some_and(|bits| bits != i32::from(spec.length_bits())) {
        return mismatch("length");
    }
    let material = in_our_format(spec, key.format, bytes)?;
    let material = KeyMaterial::new(material).map_err(|_| KmsError::KeyMismatch { field: "length" })?;
    spec.check_material(&material)?;
    Ok(material)
}

/// AES keys are raw, private keys PKCS#8; the older forms of private keys are turned into it.
fn in_our_format(spec: &KeySpec, format: KeyFormat, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let pair = match (spec.algorithm(), format) {
        (Algorithm::Aes, KeyFormat::Raw) | (Algorithm::Rsa | Algorithm::Ec, KeyFormat::Pkcs8) => return Ok(Zeroizing::new(bytes.to_vec())),
        (Algorithm::Rsa, KeyFormat::Pkcs1) => Rsa::private_key_from_der(bytes).and_then(PKey::from_rsa),
        (Algorithm::Ec, KeyFormat::EcPrivateKey) => EcKey::private_key_from_der(bytes).and_then(PKey::from_ec_key),
        _ => return Err(KmsError::KeyNotReleasable),
    };
    let pkcs8 = pair.and_then(|pair| pair.private_key_to_pkcs8());
    pkcs8.map(Zeroizing::new).map_err(|_| KmsError::KeyMismatch { field: "format (it is not what the server calls it)" })
}
