//! Signing keys: parsed once, held in memory, and their public halves as JSON Web Keys.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    digest,
    encoding::AsDer,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256,
        RSA_PSS_SHA384, RsaEncoding, RsaKeyPair,
    },
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::algorithm::Algorithm;

/// Why there is no signing key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// Not PKCS#8 of the algorithm's kind, or an RSA key outside 2048 to 8192 bits.
    #[error("not a PKCS#8 private key for {algorithm}")]
    Pkcs8 {
        /// What it was to be.
        algorithm: Algorithm,
    },
    /// A certificate of the chain does not parse.
    #[error("certificate {index} of the chain is not X.509 DER")]
    Certificate {
        /// Zero-based position; 0 is the leaf.
        index: usize,
    },
    /// The leaf certificate is for another key.
    #[error("the first certificate of the chain is not for this signing key")]
    LeafMismatch,
    /// An RSA key cannot sign as ECDSA, nor the other way round, nor can a curve serve another one's algorithm.
    #[error("a key for {algorithm} cannot sign with {wanted}")]
    OtherKind {
        /// What the key is for.
        algorithm: Algorithm,
        /// What was asked for.
        wanted: Algorithm,
    },
    /// The cryptographic library failed.
    #[error("key generation failed inside the cryptographic library")]
    Crypto,
}

enum Private {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
}

/// A private key that signs tokens, with its certificate chain. No `Clone`; `Debug` shows the `kid` only.
pub struct SigningKey {
    algorithm: Algorithm,
    private: Arc<Private>,
    spki: Vec<u8>,
    kid: String,
    chain: Vec<Vec<u8>>,
}

impl SigningKey {
    /// Makes a key: RSA-3072 for PS384 and RS256 (blocks for up to a second), else one of the algorithm's curve. It has no
    /// certificates yet; see [`Self::with_chain`].
    pub fn generate(algorithm: Algorithm) -> Result<Self, SigningKeyError> {
        let private = match curve(algorithm) {
            None => RsaKeyPair::generate(KeySize::Rsa3072).map(Private::Rsa),
            Some(curve) => EcdsaKeyPair::generate(curve).map(Private::Ecdsa),
        };
        Self::new(algorithm, private.map_err(|_| SigningKeyError::Crypto)?)
    }

    /// Parses a PKCS#8 private key. `chain` is DER, leaf first; it may be empty.
    pub fn from_pkcs8(algorithm: Algorithm, pkcs8: &[u8], chain: Vec<Vec<u8>>) -> Result<Self, SigningKeyError> {
        let private = match curve(algorithm) {
            None => RsaKeyPair::from_pkcs8(pkcs8).map(Private::Rsa),
            Some(curve) => EcdsaKeyPair::from_pkcs8(curve, pkcs8).map(Private::Ecdsa),
        };
        Self::new(algorithm, private.map_err(|_| SigningKeyError::Pkcs8 { algorithm })?)?.with_chain(chain)
    }

    fn new(algorithm: Algorithm, private: Private) -> Result<Self, SigningKeyError> {
        let spki = match &private {
            Private::Rsa(pair) => pair.public_key().as_der(),
            Private::Ecdsa(pair) => pair.public_key().as_der(),
        };
        let spki = spki.map_err(|_| SigningKeyError::Crypto)?.as_ref().to_vec();
        let kid = kid(algorithm, &spki);
        Ok(Self { algorithm, private: Arc::new(private), spki, kid, chain: Vec::new() })
    }

    /// The same key and chain under another algorithm of its kind, with a `kid` of its own: a relying party takes the
    /// algorithm from the entry of the key set, and Intel's clients take the first entry with a `kid`.
    pub fn signing_with(&self, wanted: Algorithm) -> Result<Self, SigningKeyError> {
        let algorithm = self.algorithm;
        if algorithm != wanted && !(algorithm.is_rsa() && wanted.is_rsa()) {
            return Err(SigningKeyError::OtherKind { algorithm, wanted });
        }
        Ok(Self {
            algorithm: wanted,
            private: Arc::clone(&self.private),
            spki: self.spki.clone(),
            kid: kid(wanted, &self.spki),
            chain: self.chain.clone(),
        })
    }

    /// Sets the certificate chain (DER, leaf first); the leaf must be for this key.
    pub fn with_chain(mut self, chain: Vec<Vec<u8>>) -> Result<Self, SigningKeyError> {
        for (index, der) in chain.iter().enumerate() {
            let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| SigningKeyError::Certificate { index })?;
            if !rest.is_empty() {
                return Err(SigningKeyError::Certificate { index });
            }
            if index == 0 && certificate.public_key().raw != self.spki {
                return Err(SigningKeyError::LeafMismatch);
            }
        }
        self.chain = chain;
        Ok(self)
    }

    /// The algorithm it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Names the key in headers and in the JWKS, 96 hex digits: SHA-384 of its `SubjectPublicKeyInfo`, followed by
    /// `RS256` for that algorithm.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half as DER `SubjectPublicKeyInfo`.
    pub fn public_key_der(&self) -> &[u8] {
        &self.spki
    }

    /// The certificate chain, DER, leaf first.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The private key as PKCS#8, for a file of mode 0600 and nothing else.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, SigningKeyError> {
        let bytes = match &*self.private {
            Private::Rsa(pair) => pair.as_der().map(|der| Zeroizing::new(der.as_ref().to_vec())),
            Private::Ecdsa(pair) => pair.to_pkcs8v1().map(|der| Zeroizing::new(der.as_ref().to_vec())),
        };
        bytes.map_err(|_| SigningKeyError::Crypto)
    }

    /// JWS signature bytes over `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let random = SystemRandom::new();
        match &*self.private {
            Private::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let encoding: &dyn RsaEncoding = if self.algorithm == Algorithm::Rs256 { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA384 };
                pair.sign(encoding, &random, message, &mut signature)?;
                Ok(signature)
            }
            Private::Ecdsa(pair) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
        }
    }

    /// The public half as a JWK with `x5c`, in the member set of Intel's key set.
    fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let x5c: Vec<String> = self.chain.iter().map(|der| BASE64_STANDARD.encode(der)).collect();
        match &*self.private {
            Private::Rsa(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({
                    "alg": self.algorithm.name(), "e": text(e.big_endian_without_leading_zero()), "kid": self.kid,
                    "kty": "RSA", "n": text(n.big_endian_without_leading_zero()), "x5c": x5c,
                })
            }
            Private::Ecdsa(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at((point.len() - 1) / 2);
                let curve = if self.algorithm == Algorithm::Es384 { "P-384" } else { "P-256" };
                json!({
                    "alg": self.algorithm.name(), "crv": curve, "kid": self.kid, "kty": "EC",
                    "x": text(x), "x5c": x5c, "y": text(y),
                })
            }
        }
    }
}

/// The JSON Web Key Set of these keys (RFC 7517): what `/certs` serves.
pub fn jwks<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> String {
    json!({ "keys": keys.into_iter().map(SigningKey::jwk).collect::<Vec<_>>() }).to_string()
}

fn kid(algorithm: Algorithm, spki: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA384);
    context.update(spki);
    if algorithm == Algorithm::Rs256 {
        context.update(algorithm.name().as_bytes());
    }
    hex::encode(context.finish())
}

fn curve(algorithm: Algorithm) -> Option<&'static EcdsaSigningAlgorithm> {
    match algorithm {
        Algorithm::Ps384 | Algorithm::Rs256 => None,
        Algorithm::Es384 => Some(&ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::Es256 => Some(&ECDSA_P256_SHA256_FIXED_SIGNING),
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, {}, redacted)", self.algorithm, self.kid)
    }
}
