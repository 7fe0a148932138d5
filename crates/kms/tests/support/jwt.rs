//! A verifier that signs tokens: PS384, as Trust Authority does.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PSS_SHA384},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

pub(crate) struct Signer(KeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate(KeySize::Rsa3072).unwrap())
    }

    pub(crate) fn public_key_pem(&self) -> String {
        let spki: aws_lc_rs::encoding::PublicKeyX509Der<'_> = self.0.public_key().as_der().unwrap();
        pem::encode(&pem::Pem::new("PUBLIC KEY", spki.as_ref()))
    }

    /// A compact token of `claims`, valid until `seconds` from now.
    pub(crate) fn sign(&self, claims: &Value, seconds: i64) -> String {
        #[expect(clippy::disallowed_methods, reason = "the server under test reads the system's clock")]
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        let mut claims = claims.clone();
        for (claim, time) in [("iat", now + seconds.min(0) - 60), ("nbf", now + seconds.min(0) - 60), ("exp", now + seconds)] {
            claims[claim] = json!(time);
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", part(&json!({ "alg": "PS384", "typ": "JWT" })), part(&claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(&RSA_PSS_SHA384, &SystemRandom::new(), input.as_bytes(), &mut signature).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
