//! Withdrawn certificates: which lists count, for how long, and what they take out of a key set.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_attestation_token::{
    Algorithm, KeySet, KeySetError, Revocation, RevocationCheck, RevocationList, RevocationListError, SigningKey, TokenDenial, TokenIssuer,
    TrustedIssuer, authenticate, jwks,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

#[path = "verifier/mod.rs"]
mod verifier;

/// 2026-09-21; lists are good from the first of September to the first of October.
const NOW: u64 = 1_790_000_000;
const OCTOBER: u64 = 1_790_812_800;
const LEAF: u64 = 7;
const MIDDLE: u64 = 5;
const STRICT: Revocation = Revocation { check: RevocationCheck::Required, grace_seconds: 0 };

struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = params(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { params, key: KeyPair::generate().unwrap() }
    }
    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
    /// A list of September 2026, or of another month, with these serial numbers.
    fn list(&self, month: u8, revoked: &[u64]) -> RevocationList {
        RevocationList::from_der(&self.list_der(month, revoked)).unwrap()
    }
    fn list_der(&self, month: u8, revoked: &[u64]) -> Vec<u8> {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 8, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, month, 1),
            next_update: date_time_ymd(2026, month + 1, 1),
            crl_number: SerialNumber::from(u64::from(month)),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer()).unwrap().der().to_vec()
    }
}

fn params(name: &str, list: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2028, 1, 1);
    params.crl_distribution_points = list.iter().map(|url| CrlDistributionPoint { uris: vec![(*url).to_owned()] }).collect();
    params
}

struct Pki {
    root: Authority,
    middle: Authority,
    issuer: TokenIssuer,
    keys: KeySet,
}

impl Pki {
    /// Leaf and intermediate name lists, or not.
    fn new(leaf_names: bool, middle_names: bool) -> Self {
        let (root, mut middle) = (Authority::new("Lists Root CA"), Authority::new("Lists Signing CA"));
        let point = |named: bool, url| named.then_some(url);
        middle.params.crl_distribution_points =
            params("", point(middle_names, "https://lists.test/crl/root-ca-crl.der")).crl_distribution_points;
        middle.params.serial_number = Some(SerialNumber::from(MIDDLE));
        let mut leaf = params("Lists Token Signing", point(leaf_names, "https://lists.test/crl/ats-ca-crl.der"));
        leaf.serial_number = Some(SerialNumber::from(LEAF));
        let pkcs8 = SigningKey::generate(Algorithm::Es256).unwrap().to_pkcs8().unwrap().to_vec();
        let root_der = root.params.self_signed(&root.key).unwrap().der().to_vec();
        let middle_der = middle.params.signed_by(&middle.key, &root.issuer()).unwrap().der().to_vec();
        let leaf = leaf.signed_by(&KeyPair::try_from(pkcs8.as_slice()).unwrap(), &middle.issuer()).unwrap();
        let key = SigningKey::from_pkcs8(Algorithm::Es256, &pkcs8, vec![leaf.der().to_vec(), middle_der, root_der.clone()]).unwrap();
        let trusted = TrustedIssuer::new(verifier::ISSUER, root_der, vec![Algorithm::Es256]);
        let keys = KeySet::from_jwks(jwks([&key]).as_bytes(), &trusted, NOW).unwrap();
        Self { root, middle, issuer: TokenIssuer::new(verifier::ISSUER, key, 300), keys }
    }

    fn judged(&self, lists: &[&RevocationList], rules: Revocation, now: u64) -> Result<KeySet, KeySetError> {
        self.keys.without_revoked(lists, rules, now)
    }
}

fn is_unknown(judged: &Result<KeySet, KeySetError>) -> bool {
    matches!(judged, Err(KeySetError::RevocationUnknown { .. }))
}

#[test]
fn the_chain_says_where_its_lists_are() {
    let points: Vec<_> = Pki::new(true, true).keys.distribution_points().into_iter().collect();
    assert_eq!(points, ["https://lists.test/crl/ats-ca-crl.der", "https://lists.test/crl/root-ca-crl.der"]);
    assert!(Pki::new(false, false).keys.distribution_points().is_empty());
}

#[test]
fn both_certificates_are_looked_up_and_each_can_be_withdrawn() {
    let pki = Pki::new(true, true);
    let (of_root, of_middle) = (pki.root.list(9, &[1, 2]), pki.middle.list(9, &[3]));
    let good = pki.judged(&[&of_root, &of_middle], STRICT, NOW).unwrap();
    assert!(good.knows(pki.issuer.key().kid()));
    for (root, middle) in [(pki.root.list(9, &[MIDDLE]), pki.middle.list(9, &[])), (pki.root.list(9, &[]), pki.middle.list(9, &[1, LEAF]))]
    {
        assert!(matches!(pki.judged(&[&root, &middle], STRICT, NOW), Err(KeySetError::Revoked { .. })));
    }
    // The newer list of an authority counts, in whichever order they come.
    let (old, new) = (pki.middle.list(8, &[]), pki.middle.list(9, &[LEAF]));
    for lists in [[&of_root, &old, &new], [&new, &old, &of_root]] {
        assert!(matches!(pki.judged(&lists, STRICT, NOW), Err(KeySetError::Revoked { .. })));
    }
    assert!(pki.judged(&[], Revocation::OFF, NOW).is_ok());
}

#[test]
fn a_list_that_is_missing_overdue_of_the_future_or_somebody_elses_is_no_answer() {
    let pki = Pki::new(true, true);
    let (of_root, of_middle) = (pki.root.list(9, &[]), pki.middle.list(9, &[]));
    for rules in [STRICT, Revocation::default()] {
        assert!(is_unknown(&pki.judged(&[], rules, NOW)));
        assert!(is_unknown(&pki.judged(&[&of_root], rules, NOW)));
        assert!(is_unknown(&pki.judged(&[&of_middle], rules, NOW)));
        assert!(is_unknown(&pki.judged(&[&of_root, &pki.middle.list(8, &[])], rules, NOW)), "overdue");
        assert!(is_unknown(&pki.judged(&[&of_root, &pki.middle.list(11, &[])], rules, NOW)), "of the future");
        // The right name, another key.
        let impostor = Authority::new("Lists Signing CA").list(9, &[]);
        assert!(is_unknown(&pki.judged(&[&of_root, &impostor], rules, NOW)));
        assert!(is_unknown(&pki.judged(&[&of_root, &Authority::new("Else").list(9, &[])], rules, NOW)));
    }
}

#[test]
fn a_grace_is_as_long_as_it_says_and_what_rests_on_a_list_ends_with_it() {
    let pki = Pki::new(true, true);
    let (of_root, of_middle) = (pki.root.list(9, &[]), pki.middle.list(9, &[]));
    let lists = [&of_root, &of_middle];
    assert_eq!((of_root.next_update(), of_root.this_update() < NOW), (OCTOBER, true));
    assert!(pki.judged(&lists, STRICT, OCTOBER).is_ok());
    assert!(is_unknown(&pki.judged(&lists, STRICT, OCTOBER + 1)));
    let lenient = Revocation { grace_seconds: 600, ..STRICT };
    assert!(pki.judged(&lists, lenient, OCTOBER + 600).is_ok());
    assert!(is_unknown(&pki.judged(&lists, lenient, OCTOBER + 601)));

    let judged = pki.judged(&lists, lenient, NOW).unwrap();
    let believed = |now: u64| {
        let token = pki.issuer.issue(&verifier::claims(), keyferry_attestation_token::Shape::V2Nested, now).unwrap();
        authenticate(&token.jwt, std::slice::from_ref(&judged), now).map(|_| ())
    };
    assert_eq!(believed(OCTOBER + 600), Ok(()));
    assert!(matches!(believed(OCTOBER + 601), Err(TokenDenial::KeyUnknown { .. })));
}

#[test]
fn what_no_certificate_names_is_asked_for_only_where_it_is_required() {
    let none = Pki::new(false, false);
    assert!(none.judged(&[], Revocation::default(), NOW).is_ok());
    assert!(is_unknown(&none.judged(&[], STRICT, NOW)));
    let half = Pki::new(true, false);
    assert!(half.judged(&[&half.middle.list(9, &[])], Revocation::default(), NOW).is_ok());
    assert!(matches!(half.judged(&[&half.middle.list(9, &[LEAF])], Revocation::default(), NOW), Err(KeySetError::Revoked { .. })));
    assert!(is_unknown(&half.judged(&[&half.middle.list(9, &[])], STRICT, NOW)));
}

#[test]
fn only_a_bounded_list_in_der_is_read() {
    let der = Pki::new(true, true).root.list_der(9, &[1]);
    let pem = format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", BASE64_STANDARD.encode(&der));
    for bad in [b"".as_slice(), b"x", pem.as_bytes(), &der[..der.len() - 1], &[&der[..], b"x"].concat()] {
        assert!(matches!(RevocationList::from_der(bad), Err(RevocationListError::Malformed { .. })));
    }
    assert_eq!(RevocationList::from_der(&vec![0x30; 1_048_577]).unwrap_err(), RevocationListError::TooLarge { bytes: 1_048_577 });
}
