//! A token issuer with its certificates, and the bare signatures that nobody who signs or verifies can avoid.

use anyhow::{Result, anyhow, bail};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    KeyPair as _, RSA_PSS_2048_8192_SHA384, RSA_PSS_SHA384, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyferry_attestation_token::{
    Algorithm, CollateralDigests, KeySet, Shape, SigningKey, TdMeasurements, TdxClaims, TokenIssuer, TrustedIssuer, jwks,
};
use keyferry_dcap::VerifiedQuote;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::contest::Contestant;
use crate::world::NOW;

const ISSUER: &str = "https://verifier.test";
const LIFETIME_SECONDS: u64 = 300;

pub(crate) struct TokenVerifier {
    pub(crate) issuer: TokenIssuer,
    pub(crate) pkcs8: Vec<u8>,
    root_der: Vec<u8>,
}

impl TokenVerifier {
    pub(crate) fn new(algorithm: Algorithm) -> Result<Self> {
        let key = SigningKey::generate(algorithm)?;
        let pkcs8 = key.to_pkcs8()?.to_vec();
        let (chain, root_der) = chain(&pkcs8)?;
        Ok(Self { issuer: TokenIssuer::new(ISSUER, key.with_chain(chain)?, LIFETIME_SECONDS), pkcs8, root_der })
    }

    pub(crate) fn key_set(&self) -> Result<KeySet> {
        let algorithm = self.issuer.key().algorithm();
        let trusted = TrustedIssuer::new(ISSUER, self.root_der.clone(), vec![algorithm]);
        Ok(KeySet::from_jwks(jwks([self.issuer.key()]).as_bytes(), &trusted, NOW)?)
    }

    pub(crate) fn issue(&self, claims: &TdxClaims) -> Result<String> {
        Ok(self.issuer.issue(claims, Shape::V2Nested, NOW)?.jwt)
    }

    /// One bare signature over `message`, with a key parsed once.
    pub(crate) fn bare_signature(&self, message: Vec<u8>) -> Result<Contestant<'static>> {
        let random = SystemRandom::new();
        let failed = |_| anyhow!("the bare signature failed");
        Ok(match self.issuer.key().algorithm() {
            Algorithm::Rs256 => bail!("RS256 is for old clients and not measured"),
            Algorithm::Ps384 => {
                let key = RsaKeyPair::from_pkcs8(&self.pkcs8).map_err(|_| anyhow!("the RSA key was refused"))?;
                let mut signature = vec![0; key.public_modulus_len()];
                Box::new(move || key.sign(&RSA_PSS_SHA384, &random, &message, &mut signature).map_err(failed))
            }
            Algorithm::Es384 | Algorithm::Es256 => {
                let key = self.ecdsa_key()?;
                Box::new(move || key.sign(&random, &message).map(drop).map_err(failed))
            }
        })
    }

    /// One bare verification of the token's own signature.
    pub(crate) fn bare_verification(&self, jwt: &str) -> Result<Contestant<'static>> {
        let (message, signature) = jwt.rsplit_once('.').ok_or_else(|| anyhow!("the token has no signature"))?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature)?;
        let (algorithm, key): (&'static dyn VerificationAlgorithm, Vec<u8>) = match self.issuer.key().algorithm() {
            Algorithm::Rs256 => bail!("RS256 is for old clients and not measured"),
            Algorithm::Ps384 => {
                let pair = RsaKeyPair::from_pkcs8(&self.pkcs8).map_err(|_| anyhow!("the RSA key was refused"))?;
                (&RSA_PSS_2048_8192_SHA384, pair.public_key().as_ref().to_vec())
            }
            Algorithm::Es384 => (&ECDSA_P384_SHA384_FIXED, self.ecdsa_key()?.public_key().as_ref().to_vec()),
            Algorithm::Es256 => (&ECDSA_P256_SHA256_FIXED, self.ecdsa_key()?.public_key().as_ref().to_vec()),
        };
        let (key, message) = (UnparsedPublicKey::new(algorithm, key), message.as_bytes().to_vec());
        Ok(Box::new(move || key.verify(&message, &signature).map_err(|_| anyhow!("the token's signature does not verify"))))
    }

    fn ecdsa_key(&self) -> Result<EcdsaKeyPair> {
        let algorithm = if self.issuer.key().algorithm() == Algorithm::Es384 {
            &ECDSA_P384_SHA384_FIXED_SIGNING
        } else {
            &ECDSA_P256_SHA256_FIXED_SIGNING
        };
        EcdsaKeyPair::from_pkcs8(algorithm, &self.pkcs8).map_err(|_| anyhow!("the ECDSA key was refused"))
    }
}

/// What a verifier says about a verified quote with this user data.
pub(crate) fn claims(quote: &VerifiedQuote, held_data: Vec<u8>) -> TdxClaims {
    let (body, digests, pck) = (quote.report(), quote.digests(), quote.pck());
    TdxClaims {
        tcb_status: quote.tcb_status().to_string(),
        tcb_date: quote.tcb_date().to_owned(),
        advisory_ids: quote.advisory_ids().to_vec(),
        azure_runtime: None,
        held_data,
        measurements: TdMeasurements {
            mr_td: body.mr_td,
            mr_seam: body.mr_seam,
            mr_signer_seam: body.mr_signer_seam,
            mr_config_id: body.mr_config_id,
            mr_owner: body.mr_owner,
            mr_owner_config: body.mr_owner_config,
            rtmrs: body.rtmrs,
            report_data: body.report_data,
            tee_tcb_svn: body.tee_tcb_svn,
            td_attributes: body.td_attributes.to_bytes(),
            xfam: body.xfam.to_bytes(),
            seam_attributes: body.seam_attributes,
        },
        collateral: CollateralDigests {
            fmspc: quote.fmspc(),
            tcb_evaluation_data_number: quote.evaluation_number(),
            qe_identity_certificates: digests.qe_identity_certificates,
            qe_identity_crl: digests.qe_identity_crl,
            qe_identity: digests.qe_identity,
            quote: digests.quote,
            tcb_info_certificates: digests.tcb_info_certificates,
            tcb_info_crl: digests.tcb_info_crl,
            tcb_info: digests.tcb_info,
        },
        pce_svn: pck.pce_svn,
        sgx_tcb_components: pck.cpu_svn,
        nonce: None,
        trust_anchor: quote.trust_anchor().to_owned(),
        td_id: None,
        attestation_id: None,
        policies_matched: Vec::new(),
        policies_unmatched: Vec::new(),
    }
}

/// Leaf, signing CA and root for the key, and the root alone.
fn chain(leaf_pkcs8: &[u8]) -> Result<(Vec<Vec<u8>>, Vec<u8>)> {
    let (root_key, middle_key, leaf_key) = (KeyPair::generate()?, KeyPair::generate()?, KeyPair::try_from(leaf_pkcs8)?);
    let root_params = params("Benches Root CA", Some(1))?;
    let root = root_params.self_signed(&root_key)?;
    let middle_params = params("Benches Signing CA", Some(0))?;
    let middle = middle_params.signed_by(&middle_key, &Issuer::from_params(&root_params, &root_key))?;
    let leaf = params("Benches Token Signing", None)?.signed_by(&leaf_key, &Issuer::from_params(&middle_params, &middle_key))?;
    Ok((vec![leaf.der().to_vec(), middle.der().to_vec(), root.der().to_vec()], root.der().to_vec()))
}

fn params(name: &str, path_length: Option<u8>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if let Some(length) = path_length {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    Ok(params)
}
