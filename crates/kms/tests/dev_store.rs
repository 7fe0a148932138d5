//! The development store's file: private, whole, locked, and refused when touched.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use keyferry_key_wrap::KeyMaterial;
use keyferry_kms::{DevConfig, DevKms, KeyRef, KeySpec, Kms, KmsError};
use tempfile::TempDir;

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
    fn config(&self) -> DevConfig {
        DevConfig { file: self.path("keys.store"), key_file: self.path("keys.key") }
    }
    async fn open(&self) -> Result<DevKms, KmsError> {
        DevKms::open(&self.config()).await
    }
    /// What the store says when it is opened, and that it did not touch the file.
    async fn refusal(&self) -> String {
        let before = fs::read(self.path("keys.store")).unwrap();
        let refusal = match self.open().await.unwrap_err() {
            KmsError::File { what, .. } => what.to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(fs::read(self.path("keys.store")).unwrap(), before, "a refused store is left as it is");
        refusal
    }
}

fn spec() -> KeySpec {
    KeySpec::aes(256).unwrap()
}

async fn add(kms: &DevKms, byte: u8) -> KeyRef {
    kms.register(&spec(), &KeyMaterial::new(vec![byte; 32]).unwrap()).await.unwrap()
}

async fn byte(kms: &DevKms, key: &KeyRef) -> Result<u8, KmsError> {
    let material = kms.fetch(key, &spec()).await?;
    assert!(material.expose().iter().all(|byte| *byte == material.expose()[0]));
    Ok(material.expose()[0])
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn keys_survive_a_restart_and_the_files_are_private() {
    let place = Place::new();
    let kms = place.open().await.unwrap();
    let key = add(&kms, 0x5A).await;
    let generation = kms.generation();
    drop(kms);
    let kms = place.open().await.unwrap();
    assert_eq!(byte(&kms, &key).await, Ok(0x5A));
    assert_eq!(kms.generation(), generation, "opening writes nothing");
    for name in ["keys.store", "keys.key", "keys.store.bak", "keys.store.lock"] {
        assert_eq!(mode(&place.path(name)), 0o600, "{name}");
    }
    assert!(!place.path("keys.store.new").exists());
}

#[tokio::test]
async fn no_file_of_the_store_holds_key_bytes() {
    let place = Place::new();
    let kms = place.open().await.unwrap();
    add(&kms, 0x5A).await;
    for name in ["keys.store", "keys.store.bak", "keys.key"] {
        let bytes = fs::read(place.path(name)).unwrap();
        assert!(!bytes.windows(8).any(|window| window == [0x5A; 8]), "{name}");
    }
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let place = Place::new();
    let _first = place.open().await.unwrap();
    assert!(place.refusal().await.contains("in use by another process"));
}

#[tokio::test]
async fn every_flipped_byte_every_cut_and_every_appended_byte_is_refused() {
    let place = Place::new();
    add(&place.open().await.unwrap(), 1).await;
    let good = fs::read(place.path("keys.store")).unwrap();
    for index in 0..good.len() {
        let mut bad = good.clone();
        bad[index] ^= 0x01;
        fs::write(place.path("keys.store"), &bad).unwrap();
        place.refusal().await;
    }
    for length in [0, 1, 7, 8, 47, 48, 63, good.len() - 1] {
        fs::write(place.path("keys.store"), &good[..length]).unwrap();
        place.refusal().await;
    }
    fs::write(place.path("keys.store"), [&good[..], &[0]].concat()).unwrap();
    place.refusal().await;
    fs::write(place.path("keys.store"), &good).unwrap();
    place.open().await.unwrap();
}

#[tokio::test]
async fn a_newer_format_and_a_foreign_file_are_named() {
    let place = Place::new();
    drop(place.open().await.unwrap());
    let mut newer = fs::read(place.path("keys.store")).unwrap();
    newer[9] = 2;
    fs::write(place.path("keys.store"), &newer).unwrap();
    assert!(place.refusal().await.contains("another version"));
    fs::write(place.path("keys.store"), "this is somebody's shopping list").unwrap();
    assert!(place.refusal().await.contains("no development store"));
}

#[tokio::test]
async fn files_open_to_others_are_refused() {
    let place = Place::new();
    drop(place.open().await.unwrap());
    for name in ["keys.store", "keys.key"] {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(place.refusal().await.contains("0600"), "{name}");
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    place.open().await.unwrap();
}

#[tokio::test]
async fn a_lost_short_or_foreign_key_file_is_refused_and_none_is_made() {
    let place = Place::new();
    drop(place.open().await.unwrap());
    let key = fs::read(place.path("keys.key")).unwrap();
    fs::remove_file(place.path("keys.key")).unwrap();
    assert!(place.refusal().await.contains("missing"));
    assert!(!place.path("keys.key").exists());
    for bytes in [&key[..31], &[&key[..], &[0]].concat()] {
        fs::write(place.path("keys.key"), bytes).unwrap();
        fs::set_permissions(place.path("keys.key"), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(place.refusal().await.contains("32 bytes"));
    }
    fs::write(place.path("keys.key"), [7; 32]).unwrap();
    assert!(place.refusal().await.contains("key file is another store's"));
}

#[tokio::test]
async fn what_a_crash_leaves_behind_does_no_harm() {
    let place = Place::new();
    let key = add(&place.open().await.unwrap(), 3).await;
    fs::write(place.path("keys.store.new"), "half a generation").unwrap();
    let kms = place.open().await.unwrap();
    assert_eq!(byte(&kms, &key).await, Ok(3));
    let other = add(&kms, 4).await;
    assert_eq!((byte(&kms, &key).await, byte(&kms, &other).await), (Ok(3), Ok(4)));
}

#[tokio::test]
async fn a_write_that_fails_changes_nothing() {
    let place = Place::new();
    let kms = place.open().await.unwrap();
    let key = add(&kms, 5).await;
    let generation = kms.generation();
    // A directory where the next generation would be written: works for root too, unlike a mode.
    fs::create_dir_all(place.path("keys.store.new/in-the-way")).unwrap();
    assert_eq!(kms.destroy(&key).await.unwrap_err().label(), "kms_configuration");
    assert_eq!((byte(&kms, &key).await, kms.generation()), (Ok(5), generation));
    fs::remove_dir_all(place.path("keys.store.new")).unwrap();
    kms.destroy(&key).await.unwrap();
    assert_eq!(byte(&kms, &key).await, Err(KmsError::KeyDestroyed));
}

#[tokio::test]
async fn nothing_printable_shows_a_key() {
    let place = Place::new();
    let kms = place.open().await.unwrap();
    let key = add(&kms, 0x5A).await;
    let fetched = kms.fetch(&key, &spec()).await.unwrap();
    let printed = format!("{kms:?} {fetched:?} {:?}", kms.inspect(&key).await.unwrap());
    assert!(printed.contains("redacted") && !printed.contains("90, 90") && !printed.to_lowercase().contains("5a5a"), "{printed}");
}
