//! `Debug` for the messages that carry tokens, nonces, user data or wrapped keys: names and sizes, never contents.

use std::fmt;

use crate::{attestation::v1 as attestation, release::v1 as release};

macro_rules! redacted {
    ($($message:path => $name:literal { $($shown:ident),* } sizes { $($sized:ident),* };)*) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name)
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(concat!(stringify!($sized), "_bytes"), &self.$sized.len()))*
                    .finish()
            }
        })*
    };
}

redacted! {
    attestation::VerifierNonce => "VerifierNonce" {} sizes { val, iat, signature };
    attestation::Evidence => "Evidence" {} sizes { quote, user_data, event_log };
    attestation::TokenIssued => "TokenIssued" { attestation_id, td_id, token_id, expires_at } sizes { token };
    attestation::GetTokenRequest => "GetTokenRequest" { policy_ids } sizes { user_data };
    attestation::GetTokenResponse => "GetTokenResponse" { attestation_id, expires_at } sizes { token };
    attestation::GetEvidenceRequest => "GetEvidenceRequest" {} sizes { user_data };
    release::TransferKeyRequest => "TransferKeyRequest" { key_id } sizes {};
    release::TransferKeyResponse => "TransferKeyResponse" { release_id } sizes { wrapped_key, wrapped_swk, kms_wrapped_key };
    release::ExplainPolicyRequest => "ExplainPolicyRequest" { key_id, policy_id, policy_version } sizes { token, document };
    release::ExportKeyResponse => "ExportKeyResponse" {} sizes { wrapped_key };
    release::CreateKeyRequest => "CreateKeyRequest" { algorithm, length_bits, curve, policy_id, kms_key_ref } sizes { key_data };
    release::CreateUserRequest => "CreateUserRequest" { username, permissions } sizes {};
    release::UpdateUserRequest => "UpdateUserRequest" { user_id, username, permissions } sizes {};
    release::ImportUserRequest => "ImportUserRequest" { user_id, username, permissions } sizes {};
    release::ReplaceTokenSigningKeyRequest => "ReplaceTokenSigningKeyRequest" {} sizes {};
}

impl fmt::Debug for release::transfer_key_request::Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(redacted)",
            Self::Evidence(_) => "Evidence(redacted)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_nonce_or_wrapped_key_is_printed() {
        let canary = "canary-7c1f".to_owned();
        let bytes = canary.clone().into_bytes();
        let nonce = attestation::VerifierNonce { val: bytes.clone(), iat: bytes.clone(), signature: bytes.clone() };
        let evidence =
            attestation::Evidence { quote: bytes.clone(), nonce: Some(nonce.clone()), user_data: bytes.clone(), event_log: bytes.clone() };
        let printed = [
            format!("{nonce:?}"),
            format!("{evidence:?}"),
            format!("{:?}", attestation::EvidenceCollected { evidence: Some(evidence.clone()), ..Default::default() }),
            format!("{:?}", attestation::TokenIssued { token: canary.clone(), ..Default::default() }),
            format!("{:?}", attestation::GetTokenRequest { user_data: bytes.clone(), ..Default::default() }),
            format!("{:?}", attestation::GetTokenResponse { token: canary.clone(), ..Default::default() }),
            format!(
                "{:?}",
                release::TransferKeyRequest {
                    credential: Some(release::transfer_key_request::Credential::Token(canary.clone())),
                    ..Default::default()
                }
            ),
            format!("{:?}", release::transfer_key_request::Credential::Token(canary.clone())),
            format!(
                "{:?}",
                release::TransferKeyResponse {
                    wrapped_key: bytes.clone(),
                    wrapped_swk: bytes.clone(),
                    kms_wrapped_key: bytes.clone(),
                    ..Default::default()
                }
            ),
            format!("{:?}", release::CreateKeyRequest { key_data: bytes.clone(), ..Default::default() }),
            format!("{:?}", release::CreateUserRequest { password: canary.clone(), ..Default::default() }),
            format!("{:?}", release::UpdateUserRequest { password: canary.clone(), ..Default::default() }),
            format!("{:?}", release::ImportUserRequest { bcrypt_hash: canary.clone(), ..Default::default() }),
            format!("{:?}", release::ReplaceTokenSigningKeyRequest { private_key_pem: canary.clone() }),
            format!("{:?}", release::ExportKeyResponse { wrapped_key: bytes.clone() }),
            format!("{:?}", release::ExplainPolicyRequest { token: canary.clone(), ..Default::default() }),
        ];
        let as_list = format!("{bytes:?}");
        for text in printed {
            assert!(!text.contains("canary") && !text.contains(&as_list[1..as_list.len() - 1]), "{text}");
        }
    }
}
