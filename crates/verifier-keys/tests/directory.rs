//! Directories as replicas, the command line and relying parties meet them.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use keyferry_attestation_token::{Algorithm, KeySet, SigningKey, TrustedIssuer, jwks};
use keyferry_verifier_keys::{CRL_NAMES, Contents, KeyDirectory, KeysError, RETIRED_AFTER_SECONDS, SealKey};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, ParsedExtension, X509Certificate};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const BASE: &str = "https://broker.test:9444/crl";

fn made(path: &Path, algorithm: Algorithm) -> KeyDirectory {
    let directory = KeyDirectory::new(path, None);
    directory.make(algorithm, Some(BASE), NOW).unwrap();
    directory
}

fn root(path: &Path) -> Vec<u8> {
    pem::parse(fs::read(path.join("root.pem")).unwrap()).unwrap().into_contents()
}

fn kids(contents: &Contents) -> Vec<String> {
    contents.keys.iter().map(|scheduled| scheduled.key.kid().to_owned()).collect()
}

#[test]
fn it_is_made_once_and_its_root_vouches_for_the_key() {
    for algorithm in Algorithm::ALL {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("keys");
        let directory = made(&path, algorithm);
        let first = directory.read(algorithm).unwrap();
        directory.make(algorithm, Some(BASE), NOW + 1000).unwrap();
        let again = directory.read(algorithm).unwrap();
        assert_eq!((kids(&first), &first.fingerprint), (kids(&again), &again.fingerprint));
        assert_eq!(directory.nonce_key().unwrap(), directory.nonce_key().unwrap());
        let issuer = TrustedIssuer::new("https://broker.test", root(&path), vec![algorithm]);
        let keys = KeySet::from_jwks(jwks([&again.keys[0].key]).as_bytes(), &issuer, NOW).unwrap();
        assert!(keys.knows(first.keys[0].key.kid()));
        for name in ["signing-1.key", "ca.key", "nonce.key"] {
            assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert!(!path.join("root.key").exists(), "the root's key is dropped");
    }
}

#[test]
fn replicas_that_start_together_for_the_first_time_share_one_set_of_keys() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("keys");
    let started = std::sync::Barrier::new(4);
    let replica = || {
        started.wait();
        let directory = made(&path, Algorithm::Es256);
        (kids(&directory.read(Algorithm::Es256).unwrap()), directory.nonce_key().unwrap())
    };
    let all = std::thread::scope(|scope| [(); 4].map(|()| scope.spawn(replica)).map(|thread| thread.join().unwrap()));
    assert!(all.iter().all(|keys| *keys == all[0]), "another replica's nonces and tokens are as good as one's own");
}

#[test]
fn a_secret_that_others_may_read_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = made(temporary.path(), Algorithm::Es256);
    for name in ["signing-1.key", "nonce.key", "ca.key"] {
        let path = temporary.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = match name {
            "nonce.key" => directory.nonce_key().unwrap_err(),
            "ca.key" => directory.rotate(60, NOW).unwrap_err(),
            _ => directory.read(Algorithm::Es256).unwrap_err(),
        };
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn the_kind_of_the_keys_is_the_directorys() {
    let temporary = tempfile::tempdir().unwrap();
    assert!(made(temporary.path(), Algorithm::Es256).read(Algorithm::Es384).is_err());
    let temporary = tempfile::tempdir().unwrap();
    let directory = made(temporary.path(), Algorithm::Ps384);
    assert_eq!(directory.read(Algorithm::Rs256).unwrap().keys[0].key.algorithm(), Algorithm::Rs256, "one RSA key, two algorithms");
}

#[test]
fn a_rotation_publishes_the_next_key_ahead_and_keeps_the_old_one_until_its_last_token_ended() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = made(temporary.path(), Algorithm::Es256);
    let before = directory.read(Algorithm::Es256).unwrap();
    let rotation = directory.rotate(900, NOW + DAY).unwrap();
    assert_eq!(rotation.signs_from, NOW + DAY + 900);
    let after = directory.read(Algorithm::Es256).unwrap();
    assert_ne!(before.fingerprint, after.fingerprint);
    assert_eq!(kids(&after), [kids(&before)[0].clone(), rotation.kid.clone()]);
    let times: Vec<_> = after.keys.iter().map(|scheduled| (scheduled.signs_from, scheduled.retires_at)).collect();
    assert_eq!(times, [(NOW, Some(rotation.signs_from + RETIRED_AFTER_SECONDS)), (rotation.signs_from, None)]);

    // The pinned root stays, and vouches for both.
    let issuer = TrustedIssuer::new("https://broker.test", root(temporary.path()), vec![Algorithm::Es256]);
    let both = jwks(after.keys.iter().map(|scheduled| &scheduled.key));
    let keys = KeySet::from_jwks(both.as_bytes(), &issuer, NOW + DAY).unwrap();
    assert!(kids(&after).iter().all(|kid| keys.knows(kid)));

    assert!(matches!(directory.rotate(900, NOW + DAY + 1).unwrap_err(), KeysError::Waiting { .. }), "one at a time");
    let third = directory.rotate(900, rotation.signs_from + RETIRED_AFTER_SECONDS).unwrap();
    assert_eq!(kids(&directory.read(Algorithm::Es256).unwrap()), [rotation.kid, third.kid], "the first one is gone");
    assert!(!temporary.path().join("signing-1.key").exists());
}

#[test]
fn a_rotation_by_interval_happens_once_however_many_replicas_ask() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = made(temporary.path(), Algorithm::Es256);
    assert_eq!(directory.rotate_if_due(30 * DAY, 900, NOW + 29 * DAY).unwrap(), None);
    let now = NOW + 30 * DAY - 900;
    let replicas = [(); 3].map(|()| KeyDirectory::new(temporary.path(), None));
    let rotations: Vec<_> = std::thread::scope(|scope| {
        let threads = replicas.each_ref().map(|replica| scope.spawn(move || replica.rotate_if_due(30 * DAY, 900, now).unwrap()));
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(rotations.len(), 1);
    assert_eq!(directory.read(Algorithm::Es256).unwrap().keys.len(), 2);
}

/// A waiting key is no failure: a replica that took it for one would not read the directory again.
#[test]
fn a_next_key_that_waits_is_nothing_to_do_however_long_it_is_published_ahead() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = made(temporary.path(), Algorithm::Es256);
    let first = directory.rotate_if_due(DAY, 7 * DAY, NOW).unwrap().unwrap();
    for now in [NOW, NOW + 60, first.signs_from - 1] {
        assert_eq!(directory.rotate_if_due(DAY, 7 * DAY, now).unwrap(), None);
    }
    assert!(directory.rotate_if_due(DAY, 7 * DAY, first.signs_from).unwrap().is_some());
}

/// As an earlier version left it: one key, its chain and root, no CA key.
fn earlier(path: &Path) -> SigningKey {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let pair = KeyPair::try_from(key.to_pkcs8().unwrap().as_slice()).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Keyferry Attestation Token Signing");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&pair).unwrap();
    for (name, text) in [("signing.pem", certificate.pem()), ("root.pem", certificate.pem()), ("signing.key", pair.serialize_pem())] {
        fs::write(path.join(name), text).unwrap();
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    key
}

#[test]
fn a_directory_of_an_earlier_version_serves_and_refuses_to_rotate() {
    let temporary = tempfile::tempdir().unwrap();
    let key = earlier(temporary.path());
    let directory = made(temporary.path(), Algorithm::Es256);
    let contents = directory.read(Algorithm::Es256).unwrap();
    assert_eq!(kids(&contents), [key.kid()]);
    assert!(contents.crls.is_empty() && !temporary.path().join("keyring.json").exists());
    let error = directory.rotate(900, NOW).unwrap_err();
    assert!(matches!(error, KeysError::NoAuthority { .. }) && error.to_string().contains("make a new directory"), "{error}");
    assert_eq!(directory.rotate_if_due(DAY, 900, NOW).unwrap(), None);
    assert!(!directory.renew_crl(NOW).unwrap());
}

#[test]
fn nothing_is_rotated_where_nothing_is() {
    let temporary = tempfile::tempdir().unwrap();
    let error = KeyDirectory::new(temporary.path().join("none"), None).rotate(900, NOW).unwrap_err();
    assert!(matches!(error, KeysError::NotMade { .. }), "{error}");
}

#[test]
fn every_secret_is_sealed_where_there_is_a_seal_key() {
    let (temporary, seals) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let seal = || SealKey::load_or_create(&seals.path().join("seal")).unwrap();
    let directory = KeyDirectory::new(temporary.path(), Some(seal()));
    directory.make(Algorithm::Es256, Some(BASE), NOW).unwrap();
    let nonce = directory.nonce_key().unwrap();
    directory.rotate(60, NOW + DAY).unwrap();
    for entry in fs::read_dir(temporary.path()).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name().into_string().unwrap())).unwrap();
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        assert!(!text.contains("BEGIN PRIVATE KEY"), "{name}");
        assert!(
            Path::new(&name).extension().is_none_or(|extension| extension != "key") || text.contains("BEGIN KEYFERRY SEALED SECRET"),
            "{name}"
        );
    }
    let again = KeyDirectory::new(temporary.path(), Some(seal()));
    assert_eq!((again.read(Algorithm::Es256).unwrap().keys.len(), again.nonce_key().unwrap()), (2, nonce));
    for other in [None, Some(SealKey::generate().unwrap())] {
        let other = KeyDirectory::new(temporary.path(), other);
        assert!(other.read(Algorithm::Es256).is_err() && other.nonce_key().is_err() && other.rotate(60, NOW + 9 * DAY).is_err());
    }
}

fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> &'a str {
    certificate.subject().iter_common_name().next().unwrap().as_str().unwrap()
}

fn distribution_points(certificate: &X509Certificate<'_>) -> Vec<String> {
    let points = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::CRLDistributionPoints(points) => Some(points),
        _ => None,
    });
    let names = points.flat_map(|points| points.iter()).filter_map(|point| match point.distribution_point.as_ref()? {
        x509_parser::prelude::DistributionPointName::FullName(names) => Some(names),
        x509_parser::prelude::DistributionPointName::NameRelativeToCRLIssuer(_) => None,
    });
    names.flatten().filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }).collect()
}

/// RSA PKCS#1 v1.5 with SHA-512 by another implementation than the one that signs, over `signed`.
fn verify(issuer: &X509Certificate<'_>, signed: &[u8], signature: &[u8]) {
    use rsa::{PublicKey, pkcs8::DecodePublicKey};
    let key = PublicKey::from_public_key_der(issuer.public_key().raw).unwrap();
    key.pkcs1v15_verify::<sha2::Sha512>(signed, signature).unwrap();
}

/// The demands of Intel's clients on chain and lists, each checked as they check it.
#[test]
fn chain_and_lists_are_what_intels_clients_demand() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = made(temporary.path(), Algorithm::Ps384);
    let contents = directory.read(Algorithm::Ps384).unwrap();
    let chain: Vec<_> = contents.keys[0].key.chain().iter().map(|der| X509Certificate::from_der(der).unwrap().1).collect();
    let [leaf, ca, root] = &chain[..] else { unreachable!("three certificates") };
    assert!(common_name(root).contains("Root CA") && common_name(ca).contains("Signing CA"));
    assert!(!common_name(leaf).contains("Root CA") && !common_name(leaf).contains("Signing CA"));
    assert_eq!(root.subject(), root.issuer());
    assert!(leaf.extended_key_usage().unwrap().is_none(), "no EKU, or serverAuth");
    for (certificate, issuer) in [(leaf, ca), (ca, root), (root, root)] {
        verify(issuer, certificate.tbs_certificate.as_ref(), &certificate.signature_value.data);
        assert_eq!(certificate.issuer(), issuer.subject());
    }
    for authority in [ca, root] {
        assert!(authority.is_ca());
        assert!(authority.key_usage().unwrap().unwrap().value.crl_sign());
    }
    assert_eq!(distribution_points(leaf), [format!("{BASE}/{}", CRL_NAMES[1])]);
    assert_eq!(distribution_points(ca), [format!("{BASE}/{}", CRL_NAMES[0])]);
    for (index, issuer) in [root, ca].into_iter().enumerate() {
        let (name, der) = &contents.crls[index];
        assert_eq!(*name, CRL_NAMES[index]);
        let (rest, list) = CertificateRevocationList::from_der(der).unwrap();
        assert!(rest.is_empty());
        verify(issuer, list.tbs_cert_list.as_ref(), &list.signature_value.data);
        assert_eq!((list.issuer(), list.iter_revoked_certificates().count()), (issuer.subject(), 0));
        assert!(list.next_update().unwrap().timestamp() > i64::try_from(NOW + 20 * DAY).unwrap());
    }
    let root_list = CertificateRevocationList::from_der(&contents.crls[0].1).unwrap().1;
    assert_eq!(root_list.next_update().unwrap().timestamp(), root.validity().not_after.timestamp(), "as long as the root");
}

#[test]
fn the_list_of_the_signing_ca_is_renewed_at_half_of_its_life() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = made(temporary.path(), Algorithm::Es256);
    let list = || fs::read(temporary.path().join(CRL_NAMES[1])).unwrap();
    let first = list();
    assert!(!directory.renew_crl(NOW + 14 * DAY).unwrap());
    assert_eq!(list(), first);
    assert!(directory.renew_crl(NOW + 15 * DAY).unwrap());
    let second = list();
    let next = CertificateRevocationList::from_der(&second).unwrap().1.next_update().unwrap().timestamp();
    assert_eq!(next, i64::try_from(NOW + 45 * DAY).unwrap());
    assert!(!directory.renew_crl(NOW + 16 * DAY).unwrap());
    fs::write(temporary.path().join(CRL_NAMES[1]), "damaged").unwrap();
    assert!(directory.renew_crl(NOW + 16 * DAY).unwrap());
    let fingerprint = directory.fingerprint().unwrap();
    assert_eq!(directory.read(Algorithm::Es256).unwrap().fingerprint, fingerprint);
}
