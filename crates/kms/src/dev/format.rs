//! The bytes of a development store.
//!
//! A header of 48 bytes - magic, format version, key derivation, store id, generation, nonce - and then the keys, sealed
//! with AES-256-GCM. The header is the additional data, so it cannot be changed either. Each generation is sealed under a
//! subkey of its own (HKDF-SHA256 of the key file and the generation), so that no nonce can ever repeat under one key.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand,
};
use keyferry_key_wrap::KeyMaterial;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{Algorithm, KeyState, Usage};

/// The store's own key, from the key file.
pub(super) type MasterKey = Zeroizing<[u8; 32]>;

const MAGIC: &[u8; 8] = b"KFDEVKMS";
const FORMAT_VERSION: u16 = 1;
/// HKDF-SHA256 of 32 bytes from a file; the only derivation so far.
const DERIVATION_KEY_FILE: u16 = 1;
const HEADER_BYTES: usize = 48;
const TAG_BYTES: usize = 16;
const SUBKEY_INFO: &[u8] = b"keyferry dev store generation";

/// What a store holds.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    pub(super) store: Uuid,
    /// Grows by one with each write.
    pub(super) generation: u64,
    pub(super) keys: BTreeMap<Uuid, StoredKey>,
}

/// One key. After its destruction only the fact remains.
#[derive(Clone, Debug)]
pub(super) struct StoredKey {
    pub(super) algorithm: Algorithm,
    pub(super) length_bits: u16,
    pub(super) state: KeyState,
    pub(super) usage: Usage,
    pub(super) name: String,
    pub(super) material: Option<Arc<KeyMaterial>>,
}

/// Seals `contents` as they are.
pub(super) fn seal(contents: &Contents, master: &MasterKey) -> Result<Vec<u8>, &'static str> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(|_| "no random bytes from the operating system")?;
    let header = header(contents, nonce);
    let mut body = encode(&contents.keys);
    let key = subkey(contents.store, contents.generation, master)?;
    let sealed = key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut *body);
    sealed.map_err(|_| "cannot be sealed")?;
    Ok([header.as_slice(), body.as_slice()].concat())
}

/// Opens what [`seal`] wrote. Anything else is refused with the reason; nothing is repaired.
pub(super) fn open(file: &[u8], master: &MasterKey) -> Result<Contents, &'static str> {
    let mut rest = Fields(file);
    let cut = "is cut off, or no development store";
    if rest.take::<8>().ok_or(cut)? != *MAGIC {
        return Err("is no development store");
    }
    if u16::from_be_bytes(rest.take().ok_or(cut)?) != FORMAT_VERSION {
        return Err("has a format of another version: use the keyferry that wrote it");
    }
    if u16::from_be_bytes(rest.take().ok_or(cut)?) != DERIVATION_KEY_FILE {
        return Err("derives its key in an unknown way: use the keyferry that wrote it");
    }
    let store = Uuid::from_bytes(rest.take().ok_or(cut)?);
    let generation = u64::from_be_bytes(rest.take().ok_or(cut)?);
    let nonce = rest.take().ok_or(cut)?;
    let header = file.get(..HEADER_BYTES).ok_or(cut)?;
    let mut body = Zeroizing::new(rest.0.to_vec());
    let key = subkey(store, generation, master)?;
    let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut body);
    let opened = opened.map_err(|_| "cannot be opened: the key file is another store's, or the file was changed")?;
    let keys = decode(opened).ok_or("holds keys in a form this version does not know")?;
    Ok(Contents { store, generation, keys })
}

fn header(contents: &Contents, nonce: [u8; NONCE_LEN]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let fields: [&[u8]; 6] = [
        MAGIC,
        &FORMAT_VERSION.to_be_bytes(),
        &DERIVATION_KEY_FILE.to_be_bytes(),
        contents.store.as_bytes(),
        &contents.generation.to_be_bytes(),
        &nonce,
    ];
    header.iter_mut().zip(fields.concat()).for_each(|(byte, field)| *byte = field);
    header
}

fn subkey(store: Uuid, generation: u64, master: &MasterKey) -> Result<LessSafeKey, &'static str> {
    let derived = Salt::new(HKDF_SHA256, store.as_bytes()).extract(master.as_slice());
    let generation = generation.to_be_bytes();
    let info = [SUBKEY_INFO, &generation];
    let mut bytes = Zeroizing::new([0; 32]);
    let filled = derived.expand(&info, HKDF_SHA256).and_then(|output| output.fill(bytes.as_mut_slice()));
    filled.and_then(|()| UnboundKey::new(&AES_256_GCM, bytes.as_slice())).map(LessSafeKey::new).map_err(|_| "no key can be derived")
}

/// Allocated once at its full size, tag included: a buffer that grows leaves keys behind.
fn encode(keys: &BTreeMap<Uuid, StoredKey>) -> Zeroizing<Vec<u8>> {
    let size = |key: &StoredKey| 40 + key.name.len() + key.material.as_ref().map_or(0, |material| material.len());
    let mut out = Zeroizing::new(Vec::with_capacity(4 + keys.values().map(size).sum::<usize>() + TAG_BYTES));
    out.extend_from_slice(&u32::try_from(keys.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (id, key) in keys {
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(&[algorithm_code(key.algorithm), state_code(key.state)]);
        out.extend_from_slice(&key.length_bits.to_be_bytes());
        out.extend_from_slice(&key.usage.bits().to_be_bytes());
        text(&mut out, key.name.as_bytes());
        text(&mut out, key.material.as_ref().map_or(&[], |material| material.expose()));
    }
    out
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn decode(body: &[u8]) -> Option<BTreeMap<Uuid, StoredKey>> {
    let mut rest = Fields(body);
    let count = u32::from_be_bytes(rest.take()?);
    let mut keys = BTreeMap::new();
    for _ in 0..count {
        let id = Uuid::from_bytes(rest.take()?);
        let [algorithm, state] = rest.take()?;
        let key = StoredKey {
            algorithm: algorithm_of(algorithm)?,
            state: state_of(state)?,
            length_bits: u16::from_be_bytes(rest.take()?),
            usage: Usage::from_bits(i32::from_be_bytes(rest.take()?)),
            name: String::from_utf8(rest.text()?.to_vec()).ok()?,
            material: match rest.text()? {
                [] => None,
                bytes => Some(Arc::new(KeyMaterial::new(bytes.to_vec()).ok()?)),
            },
        };
        keys.insert(id, key);
    }
    rest.0.is_empty().then_some(keys)
}

const fn algorithm_code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Aes => 1,
        Algorithm::Rsa => 2,
        Algorithm::Ec => 3,
    }
}

const fn algorithm_of(code: u8) -> Option<Algorithm> {
    Some(match code {
        1 => Algorithm::Aes,
        2 => Algorithm::Rsa,
        3 => Algorithm::Ec,
        _ => return None,
    })
}

const fn state_code(state: KeyState) -> u8 {
    match state {
        KeyState::PreActive => 1,
        KeyState::Active => 2,
        KeyState::Deactivated => 3,
        KeyState::Compromised => 4,
        KeyState::Destroyed => 5,
    }
}

const fn state_of(code: u8) -> Option<KeyState> {
    Some(match code {
        1 => KeyState::PreActive,
        2 => KeyState::Active,
        3 => KeyState::Deactivated,
        4 => KeyState::Compromised,
        5 => KeyState::Destroyed,
        _ => return None,
    })
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }
}
