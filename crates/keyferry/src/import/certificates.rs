//! The TLS pair and the token signing key of the other broker.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use aws_lc_rs::{encoding::AsDer, rsa::KeyPair};
use keyferry_lifecycle::clock;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{
    directory,
    plan::{Item, Kind, Plan, Record, State},
    record::Refusal,
};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const RSA_BITS_MIN: usize = 3072;
const ANEW: &str = "leave it out: key-release makes its own";

/// Adds what there is: the signing key before everything else, the TLS pair at the end.
pub(super) fn plan(plan: &mut Plan, certificates: &Path, tls_dir: Option<&Path>) {
    let signing_key = certificates.join("signing-keys/jwt-signing.key");
    if exists(&signing_key) {
        plan.items.insert(0, item(Kind::SigningKey, "jwt-signing.key", checked_signing_key(&signing_key)));
    }
    let tls = certificates.join("tls");
    if exists(&tls.join(CERTIFICATE)) || exists(&tls.join(KEY)) {
        let mut pair = item(Kind::TlsPair, CERTIFICATE, checked_pair(&tls));
        match tls_dir {
            Some(target) => pair.state = compared(pair.state, target),
            None if matches!(pair.state, State::Import(_)) => {
                pair.state = State::Reported;
                pair.notes.push("give --tls-dir DIR to copy it".to_owned());
            }
            None => {}
        }
        plan.items.push(pair);
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn item(kind: Kind, id: &str, checked: Result<(Record, Vec<String>), Refusal>) -> Item {
    let (state, notes) = match checked {
        Ok((record, notes)) => (State::Import(record), notes),
        Err(refusal) => (State::Refused(refusal), Vec::new()),
    };
    Item { kind, id: id.to_owned(), name: String::new(), state, notes }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    directory::file(path).map_err(|problem| Refusal::new(problem, ANEW))
}

fn checked_signing_key(path: &Path) -> Result<(Record, Vec<String>), Refusal> {
    let bytes = read(path)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| Refusal::new("it is not a private key in PEM", ANEW))?;
    let PrivateKeyDer::Pkcs8(pkcs8) = key else { return Err(Refusal::new("it is not PKCS#8", ANEW)) };
    let pair = KeyPair::from_pkcs8(pkcs8.secret_pkcs8_der()).map_err(|_| Refusal::new("it is not an RSA key", ANEW))?;
    let bits = pair.public_modulus_len() * 8;
    if bits < RSA_BITS_MIN {
        return Err(Refusal::new(format!("it has {bits} bits, at least {RSA_BITS_MIN} are needed"), ANEW));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Refusal::new("it is not PEM", ANEW))?;
    Ok((Record::SigningKey(Zeroizing::new(text.to_owned())), vec![format!("RSA, {bits} bits")]))
}

fn checked_pair(directory: &Path) -> Result<(Record, Vec<String>), Refusal> {
    let (certificate, key) = (read(&directory.join(CERTIFICATE))?, read(&directory.join(KEY))?);
    let no_certificate = || Refusal::new("tls.crt is not a certificate in PEM", ANEW);
    let der = CertificateDer::from_pem_slice(&certificate).map_err(|_| no_certificate())?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| no_certificate())?;
    let private = PrivateKeyDer::from_pem_slice(&key).map_err(|_| Refusal::new("tls.key is not a private key in PEM", ANEW))?;
    belongs(&parsed, &private)?;
    let until = jiff::Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|_| no_certificate())?;
    let now = i64::try_from(clock::now()).unwrap_or(i64::MAX);
    let state = if until.as_second() <= now { "it expired on" } else { "valid until" };
    let notes = vec![format!("{state} {until}; nothing renews it")];
    Ok((Record::TlsPair { certificate: certificate.to_vec(), key }, notes))
}

/// The service makes RSA keys; another pair is left to whoever made it.
fn belongs(certificate: &X509Certificate<'_>, private: &PrivateKeyDer<'_>) -> Result<(), Refusal> {
    let other = || Refusal::new("tls.key is not the RSA key of tls.crt", ANEW);
    let pair = match private {
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(other()),
    };
    let pair = pair.map_err(|_| other())?;
    let public = aws_lc_rs::signature::KeyPair::public_key(&pair);
    let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = public.as_der().map_err(|_| other())?;
    if public.as_ref() == certificate.public_key().raw { Ok(()) } else { Err(other()) }
}

/// Nothing in the target directory is overwritten.
fn compared(state: State, target: &Path) -> State {
    let State::Import(Record::TlsPair { certificate, key }) = state else { return state };
    let there = |name: &str, wanted: &[u8]| match directory::file(&target.join(name)) {
        Ok(found) => Some(found.as_slice() == wanted),
        Err(_) if exists(&target.join(name)) => Some(false),
        Err(_) => None,
    };
    match (there(CERTIFICATE, &certificate), there(KEY, &key)) {
        (Some(true), Some(true)) => State::AlreadyThere,
        (Some(false), _) | (_, Some(false)) => State::Refused(Refusal::new(
            format!("{} holds another tls.crt or tls.key", target.display()),
            "choose another directory; nothing is overwritten",
        )),
        _ => State::Import(Record::TlsPair { certificate, key }),
    }
}

/// Writes both files, mode 0600, where they are not there yet.
pub(super) fn write(certificate: &[u8], key: &[u8], target: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(target)?;
    for (name, bytes) in [(KEY, key), (CERTIFICATE, certificate)] {
        let path = target.join(name);
        if exists(&path) {
            continue; // the same bytes, says the plan: a copy that broke off
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}
