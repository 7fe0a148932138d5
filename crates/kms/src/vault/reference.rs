//! References to keys in this back end: a UUID, and for engines that count them the version.

use std::num::NonZeroU32;

use uuid::Uuid;

use super::VaultEngine;
use crate::{KeyRef, KeySpec, KmsError};

/// Which key, and which version of it. Only this makes a path, so no text of a caller's is ever part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) id: Uuid,
    pub(crate) version: NonZeroU32,
}

const FIRST: NonZeroU32 = NonZeroU32::MIN;

impl Reference {
    /// The reference of a new key: its record's id if that is a UUID, so that the path in the server names the record.
    pub(crate) fn for_new(spec: &KeySpec) -> Self {
        let id = spec.name().and_then(|name| canonical(name.as_str())).unwrap_or_else(Uuid::new_v4);
        Self { id, version: FIRST }
    }

    /// A UUID (version 1, never "the latest"), or `kv2:<uuid>:<version>` or `transit:<uuid>:<version>`.
    pub(crate) fn parse(engine: VaultEngine, key: &KeyRef) -> Result<Self, KmsError> {
        let wrong = KmsError::Reference(match engine {
            VaultEngine::Kv1 => "a UUID is expected",
            VaultEngine::Kv2 => "a UUID or kv2:<uuid>:<version> is expected",
            VaultEngine::Transit => "a UUID or transit:<uuid>:<version> is expected",
        });
        if let Some(id) = canonical(key.as_str()) {
            return Ok(Self { id, version: FIRST });
        }
        let parse = || {
            let (id, version) = key.as_str().strip_prefix(prefix(engine)?)?.strip_prefix(':')?.split_once(':')?;
            let plain = !version.starts_with(['0', '+']);
            Some(Self { id: canonical(id)?, version: version.parse().ok().filter(|_| plain)? })
        };
        parse().ok_or(wrong)
    }

    pub(crate) fn key_ref(&self, engine: VaultEngine) -> Result<KeyRef, KmsError> {
        let Self { id, version } = self;
        KeyRef::parse(&prefix(engine).map_or_else(|| id.to_string(), |prefix| format!("{prefix}:{id}:{version}")))
    }
}

const fn prefix(engine: VaultEngine) -> Option<&'static str> {
    match engine {
        VaultEngine::Kv1 => None,
        VaultEngine::Kv2 => Some("kv2"),
        VaultEngine::Transit => Some("transit"),
    }
}

/// A UUID as it is usually written: two texts for one key would be two single flights and two audit trails.
fn canonical(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|id| id.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uuids_and_versions_make_a_reference() {
        let parse = |engine, text: &str| Reference::parse(engine, &KeyRef::parse(text).unwrap());
        let id = "6f1d3b0a-94d2-4a44-9d6f-0f7a3c2b1e00";
        for engine in [VaultEngine::Kv1, VaultEngine::Kv2, VaultEngine::Transit] {
            let reference = parse(engine, id).unwrap();
            assert_eq!((reference.id.to_string().as_str(), reference.version.get()), (id, 1));
            assert_eq!(parse(engine, reference.key_ref(engine).unwrap().as_str()), Ok(reference));
        }
        assert_eq!(parse(VaultEngine::Kv2, &format!("kv2:{id}:7")).unwrap().version.get(), 7);
        let wrong = [
            "../sys/seal",
            "a/b",
            "7",
            &id.to_uppercase(),
            &id.replace('-', ""),
            &format!("kv2:{id}:0"),
            &format!("kv2:{id}:07"),
            &format!("kv2:{id}:+7"),
            &format!("kv2:{id}:-1"),
            &format!("kv2:{id}:4294967296"),
            &format!("kv2:{id}"),
            &format!("kv2:{id}:1/../x"),
            &format!("transit:{id}:1"),
            &format!("kv1:{id}:1"),
        ];
        for text in wrong {
            assert_eq!(parse(VaultEngine::Kv2, text).unwrap_err().label(), "key_reference", "{text}");
        }
    }
}
