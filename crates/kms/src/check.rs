//! What must hold before a key is released, whichever KMS it is in.

use serde::Deserialize;

use crate::{Algorithm, KeyDescription, KeyRef, KeySpec, KeyState, KmsError, Usage};

/// Which doubtful answers of a KMS are acceptable. The default accepts none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReleaseRules {
    /// Release keys in state Pre-Active. Needed to take over keys of Intel's KBS, which never activates one. It does not
    /// relax any other state. Since 0.1.
    pub accept_pre_active: bool,
    /// Release keys whose usage mask the server does not tell. Since 0.1.
    pub accept_missing_usage_mask: bool,
    /// Also require the Export bit in the usage mask. Since 0.1.
    pub require_export_usage: bool,
}

impl ReleaseRules {
    /// Compares what the KMS says about a key with what was asked for and recorded.
    pub fn check(self, wanted: &KeyRef, spec: &KeySpec, found: &KeyDescription) -> Result<(), KmsError> {
        check_identity(wanted, spec, found)?;
        self.check_state(found.state)?;
        self.check_usage(spec, found.usage)
    }

    fn check_state(self, state: Option<KeyState>) -> Result<(), KmsError> {
        match state {
            Some(KeyState::Active) => Ok(()),
            Some(KeyState::PreActive) if self.accept_pre_active => Ok(()),
            Some(KeyState::PreActive) => Err(KmsError::KeyPreActive),
            Some(KeyState::Deactivated) => Err(KmsError::KeyDeactivated),
            Some(KeyState::Compromised) => Err(KmsError::KeyCompromised),
            Some(KeyState::Destroyed) => Err(KmsError::KeyDestroyed),
            None => Err(KmsError::Protocol("it does not tell the key's state")),
        }
    }

    fn check_usage(self, spec: &KeySpec, usage: Option<Usage>) -> Result<(), KmsError> {
        let (uses, missing, no_mask) = match spec.algorithm() {
            Algorithm::Aes => ([Usage::DECRYPT, Usage::DECRYPT], "Decrypt", "Decrypt (no mask at all)"),
            Algorithm::Rsa => ([Usage::DECRYPT, Usage::SIGN], "Decrypt or Sign", "Decrypt or Sign (no mask at all)"),
            Algorithm::Ec => ([Usage::SIGN, Usage::KEY_AGREEMENT], "Sign or Key Agreement", "Sign or Key Agreement (no mask at all)"),
        };
        let Some(usage) = usage else {
            return if self.accept_missing_usage_mask { Ok(()) } else { Err(KmsError::KeyUsage { missing: no_mask }) };
        };
        if !uses.iter().any(|bit| usage.contains(*bit)) {
            return Err(KmsError::KeyUsage { missing });
        }
        if self.require_export_usage && !usage.contains(Usage::EXPORT) {
            return Err(KmsError::KeyUsage { missing: "Export" });
        }
        Ok(())
    }
}

pub(crate) fn check_identity(wanted: &KeyRef, spec: &KeySpec, found: &KeyDescription) -> Result<(), KmsError> {
    let mismatch = |field| Err(KmsError::KeyMismatch { field });
    if found.key != *wanted {
        return mismatch("unique identifier");
    }
    if found.form != spec.form() {
        return mismatch("object type");
    }
    if found.algorithm != Some(spec.algorithm()) {
        return mismatch("algorithm");
    }
    if found.length_bits != Some(spec.length_bits()) {
        return mismatch("length");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Curve, KeyForm};

    fn check(rules: ReleaseRules, change: impl FnOnce(&mut KeyDescription)) -> Result<(), KmsError> {
        let key = KeyRef::parse("7").unwrap();
        let mut found = KeyDescription {
            key: key.clone(),
            form: KeyForm::Symmetric,
            algorithm: Some(Algorithm::Aes),
            length_bits: Some(256),
            state: Some(KeyState::Active),
            usage: Some(Usage::DECRYPT),
        };
        change(&mut found);
        rules.check(&key, &KeySpec::aes(256).unwrap(), &found)
    }

    #[test]
    fn the_recorded_key_is_released() {
        assert_eq!(check(ReleaseRules::default(), |_| {}), Ok(()));
    }

    #[test]
    fn another_object_is_a_mismatch() {
        let mismatch = |field| Err(KmsError::KeyMismatch { field });
        let strict = ReleaseRules::default();
        assert_eq!(check(strict, |found| found.key = KeyRef::parse("8").unwrap()), mismatch("unique identifier"));
        assert_eq!(check(strict, |found| found.form = KeyForm::Private), mismatch("object type"));
        assert_eq!(check(strict, |found| found.algorithm = None), mismatch("algorithm"));
        assert_eq!(check(strict, |found| found.length_bits = Some(128)), mismatch("length"));
        assert_eq!(check(strict, |found| found.length_bits = None), mismatch("length"));
    }

    #[test]
    fn every_state_but_active_is_refused_with_its_own_reason() {
        let strict = ReleaseRules::default();
        let lenient = ReleaseRules { accept_pre_active: true, accept_missing_usage_mask: true, require_export_usage: false };
        let cases = [
            (KeyState::Deactivated, KmsError::KeyDeactivated),
            (KeyState::Compromised, KmsError::KeyCompromised),
            (KeyState::Destroyed, KmsError::KeyDestroyed),
        ];
        for (state, error) in cases {
            assert_eq!(check(strict, |found| found.state = Some(state)), Err(error.clone()));
            assert_eq!(check(lenient, |found| found.state = Some(state)), Err(error), "no switch relaxes {state:?}");
        }
        assert_eq!(check(strict, |found| found.state = Some(KeyState::PreActive)), Err(KmsError::KeyPreActive));
        assert_eq!(check(lenient, |found| found.state = Some(KeyState::PreActive)), Ok(()));
        assert_eq!(check(lenient, |found| found.state = None).map_err(|error| error.label()), Err("kms_protocol"));
    }

    #[test]
    fn a_key_that_may_not_decrypt_stays() {
        let strict = ReleaseRules::default();
        let usage = |missing| Err(KmsError::KeyUsage { missing });
        assert_eq!(check(strict, |found| found.usage = Some(Usage::ENCRYPT)), usage("Decrypt"));
        assert_eq!(check(strict, |found| found.usage = None), usage("Decrypt (no mask at all)"));
        assert_eq!(check(ReleaseRules { accept_missing_usage_mask: true, ..strict }, |found| found.usage = None), Ok(()));
        let export = ReleaseRules { require_export_usage: true, ..strict };
        assert_eq!(check(export, |_| {}), usage("Export"));
        assert_eq!(check(export, |found| found.usage = Some(Usage::DECRYPT.with(Usage::EXPORT))), Ok(()));
    }

    #[test]
    fn a_private_key_is_released_for_what_private_keys_do() {
        let key = KeyRef::parse("7").unwrap();
        let check = |spec: KeySpec, form, usage| {
            let (algorithm, length_bits, state) = (Some(spec.algorithm()), Some(spec.length_bits()), Some(KeyState::Active));
            let found = KeyDescription { key: key.clone(), form, algorithm, length_bits, state, usage: Some(usage) };
            ReleaseRules::default().check(&key, &spec, &found)
        };
        let (rsa, ec) = (|| KeySpec::rsa(3072).unwrap(), || KeySpec::ec(Curve::P384));
        for usage in [Usage::DECRYPT, Usage::SIGN, rsa().usage()] {
            assert_eq!(check(rsa(), KeyForm::Private, usage), Ok(()));
        }
        for usage in [Usage::SIGN, Usage::KEY_AGREEMENT, ec().usage()] {
            assert_eq!(check(ec(), KeyForm::Private, usage), Ok(()));
        }
        assert_eq!(check(rsa(), KeyForm::Private, Usage::ENCRYPT), Err(KmsError::KeyUsage { missing: "Decrypt or Sign" }));
        assert_eq!(check(ec(), KeyForm::Private, Usage::DECRYPT), Err(KmsError::KeyUsage { missing: "Sign or Key Agreement" }));
        for form in [KeyForm::Public, KeyForm::Symmetric, KeyForm::Other] {
            assert_eq!(check(rsa(), form, rsa().usage()), Err(KmsError::KeyMismatch { field: "object type" }));
        }
    }
}
