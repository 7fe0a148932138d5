//! The bytes of a key: whether they are the key that a record describes, and new ones.

use aws_lc_rs::{
    rsa::KeyPair as RsaKeyPair,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm,
    },
};
use keyferry_key_wrap::KeyMaterial;
use openssl::{
    ec::{EcGroup, EcKey},
    nid::Nid,
    pkey::PKey,
    rsa::Rsa,
};
use zeroize::Zeroizing;

use crate::{Algorithm, Curve, KeySpec, KmsError};

/// PEM label of PKCS#8.
const PKCS8_LABEL: &str = "PRIVATE KEY";

impl KeySpec {
    /// Whether `material` is a key of this algorithm and length: for AES by its length, for RSA and EC by parsing and
    /// checking the PKCS#8 DER private key. Takes some 0.1 to 10 ms for a private key.
    pub fn check_material(&self, material: &KeyMaterial) -> Result<(), KmsError> {
        let bytes = material.expose();
        match (self.algorithm(), self.curve()) {
            (Algorithm::Aes, _) if material.bits() == usize::from(self.length_bits()) => Ok(()),
            (Algorithm::Aes, _) => Err(KmsError::KeyMismatch { field: "length" }),
            (_, Some(curve)) => check_ec(bytes, curve),
            (_, None) => check_rsa(bytes, self.length_bits()),
        }
    }

    /// Reads a key that somebody brings: the raw bytes of an AES key; PKCS#8 as DER or PEM for RSA and EC. It must be of
    /// this algorithm and length.
    pub fn read_material(&self, bytes: &[u8]) -> Result<KeyMaterial, KmsError> {
        let der = if self.algorithm() != Algorithm::Aes && bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
            from_pem(bytes)?
        } else {
            Zeroizing::new(bytes.to_vec())
        };
        let material = KeyMaterial::new(der).map_err(|_| KmsError::KeyMismatch { field: "length" })?;
        self.check_material(&material)?;
        Ok(material)
    }
}

const NOT_PKCS8: KmsError = KmsError::KeyMismatch { field: "format (a private key is PKCS#8)" };

fn from_pem(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let pem = pem::parse(text).map_err(|_| NOT_PKCS8)?;
    let is_pkcs8 = pem.tag() == PKCS8_LABEL;
    let der = Zeroizing::new(pem.into_contents());
    if is_pkcs8 { Ok(der) } else { Err(NOT_PKCS8) }
}

fn check_rsa(der: &[u8], length_bits: u16) -> Result<(), KmsError> {
    let pair = RsaKeyPair::from_pkcs8(der).map_err(|_| NOT_PKCS8)?;
    if pair.public_modulus_len() * 8 == usize::from(length_bits) { Ok(()) } else { Err(KmsError::KeyMismatch { field: "length" }) }
}

fn check_ec(der: &[u8], curve: Curve) -> Result<(), KmsError> {
    let is_on = |curve| EcdsaKeyPair::from_pkcs8(signing(curve), der).is_ok();
    if is_on(curve) {
        return Ok(());
    }
    let on_another = [Curve::P256, Curve::P384, Curve::P521].into_iter().any(is_on);
    Err(if on_another { KmsError::KeyMismatch { field: "curve" } } else { NOT_PKCS8 })
}

const fn signing(curve: Curve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        Curve::P521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
    }
}

/// A new key, for back ends that only store. Off the runtime: an RSA key of 7680 bits takes many seconds.
pub(crate) async fn generate(spec: &KeySpec) -> Result<KeyMaterial, KmsError> {
    let (algorithm, curve, bits) = (spec.algorithm(), spec.curve(), spec.length_bits());
    let made = tokio::task::spawn_blocking(move || match (algorithm, curve) {
        (Algorithm::Aes, _) => KeyMaterial::random(usize::from(bits / 8)).map_err(|_| KmsError::Internal),
        (_, curve) => generate_pair(bits, curve),
    });
    made.await.unwrap_or(Err(KmsError::Internal))
}

/// OpenSSL makes all of them: it alone knows 7680 bits, and its PKCS#8 comes as a buffer that can be wiped.
fn generate_pair(bits: u16, curve: Option<Curve>) -> Result<KeyMaterial, KmsError> {
    let pair = match curve {
        None => Rsa::generate(u32::from(bits)).and_then(PKey::from_rsa),
        Some(curve) => EcGroup::from_curve_name(group(curve)).and_then(|group| EcKey::generate(&group)).and_then(PKey::from_ec_key),
    };
    let der = pair.and_then(|pair| pair.private_key_to_pkcs8()).map(Zeroizing::new).map_err(|_| KmsError::Internal)?;
    KeyMaterial::new(der).map_err(|_| KmsError::Internal)
}

const fn group(curve: Curve) -> Nid {
    match curve {
        Curve::P256 => Nid::X9_62_PRIME256V1,
        Curve::P384 => Nid::SECP384R1,
        Curve::P521 => Nid::SECP521R1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mismatch(field: &'static str) -> Result<(), KmsError> {
        Err(KmsError::KeyMismatch { field })
    }
    fn brought(spec: &KeySpec, bytes: &[u8]) -> Result<(), KmsError> {
        spec.read_material(bytes).map(drop)
    }

    #[tokio::test]
    async fn a_new_key_is_what_its_specification_says_and_no_other() {
        let rsa = |bits| KeySpec::rsa(bits).unwrap();
        let specs = [
            KeySpec::aes(192).unwrap(),
            rsa(2048),
            rsa(3072),
            KeySpec::ec(Curve::P256),
            KeySpec::ec(Curve::P384),
            KeySpec::ec(Curve::P521),
        ];
        for (made, spec) in specs.iter().enumerate() {
            let material = generate(spec).await.unwrap();
            for (other, spec) in specs.iter().enumerate() {
                assert_eq!(spec.check_material(&material).is_ok(), made == other, "key {made} as {spec:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_key_is_said() {
        let (rsa, p256) = (KeySpec::rsa(2048).unwrap(), KeySpec::ec(Curve::P256));
        let (rsa_key, p256_key) = (generate(&rsa).await.unwrap(), generate(&p256).await.unwrap());
        assert_eq!(KeySpec::rsa(3072).unwrap().check_material(&rsa_key), mismatch("length"));
        assert_eq!(KeySpec::ec(Curve::P384).check_material(&p256_key), mismatch("curve"));
        assert_eq!(rsa.check_material(&p256_key), Err(NOT_PKCS8));
        assert_eq!(p256.check_material(&rsa_key), Err(NOT_PKCS8));
        assert_eq!(KeySpec::aes(256).unwrap().check_material(&p256_key), mismatch("length"));
        let cut = KeyMaterial::new(rsa_key.expose()[..rsa_key.len() - 1].to_vec()).unwrap();
        assert_eq!(rsa.check_material(&cut), Err(NOT_PKCS8));
    }

    #[tokio::test]
    async fn a_private_key_may_come_as_pem_if_it_is_pkcs8() {
        let spec = KeySpec::rsa(2048).unwrap();
        let material = generate(&spec).await.unwrap();
        let pkcs8 = pem::encode(&pem::Pem::new(PKCS8_LABEL, material.expose()));
        assert_eq!(spec.read_material(pkcs8.as_bytes()).unwrap().expose(), material.expose());
        assert_eq!(spec.read_material(material.expose()).unwrap().expose(), material.expose());
        let pkcs1 =
            Rsa::private_key_from_der(&PKey::private_key_from_der(material.expose()).unwrap().rsa().unwrap().private_key_to_der().unwrap());
        let pkcs1 = pkcs1.unwrap().private_key_to_pem().unwrap();
        assert_eq!(brought(&spec, &pkcs1), Err(NOT_PKCS8));
        assert_eq!(brought(&spec, b"-----BEGIN PRIVATE KEY-----\nno\n"), Err(NOT_PKCS8));
        assert_eq!(brought(&spec, b""), mismatch("length"));
        assert_eq!(brought(&KeySpec::aes(256).unwrap(), b"-----BEGIN 32 bytes of AES key---"[..32].as_ref()), Ok(()));
    }

    #[test]
    fn lengths_and_curves_outside_the_list_have_no_specification() {
        for bits in [0, 1024, 2047, 8192, u16::MAX] {
            assert_eq!(KeySpec::rsa(bits).unwrap_err().label(), "kms_configuration");
        }
        assert_eq!(Curve::parse("prime256v1"), Curve::parse("secp256r1"));
        assert_eq!([Curve::parse("secp224r1"), Curve::parse("P-256"), Curve::parse("")], [None; 3]);
        for curve in [Curve::P256, Curve::P384, Curve::P521] {
            assert_eq!(Curve::parse(curve.name()), Some(curve));
        }
    }
}
