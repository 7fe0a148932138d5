//! The store without a service: files, bundles, the directory.

use std::{fs, path::Path, time::SystemTime};

use keyferry_collateral::{Bundle, Update};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatorRoot, Window};
use tempfile::TempDir;

use super::*;

const FMSPC: [u8; 6] = PlatformOptions::FMSPC;

struct Desk {
    directory: TempDir,
    root: SimulatorRoot,
    now: u64,
}

impl Desk {
    fn new() -> Self {
        let now = clock::now();
        Self { directory: tempfile::tempdir().unwrap(), root: SimulatorRoot::generate("collateral", now).unwrap(), now }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn anchor(&self) -> TrustAnchor {
        TrustAnchor::simulator(self.root.certificate_der()).unwrap()
    }

    fn collateral(&self, options: &CollateralOptions) -> String {
        self.root.collateral(options, self.now).unwrap()
    }

    fn verified(&self, options: &CollateralOptions) -> VerifiedDocument {
        Document::parse(&self.collateral(options)).unwrap().verify(&self.anchor(), self.now).unwrap()
    }

    fn open(&self, sources: Sources) -> CollateralStore {
        CollateralStore::open(sources, self.anchor(), Vec::new()).unwrap()
    }

    /// Writes, `second` seconds after the epoch: changes are told by the time of the last modification.
    fn write(&self, name: &str, text: &str, second: u64) {
        fs::write(self.path(name), text).unwrap();
        touch(&self.path(name), second);
    }

    fn files(&self) -> Sources {
        Sources { files: vec![self.path("collateral.json")], ..Sources::default() }
    }
}

fn touch(path: &Path, second: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn numbered(number: u32) -> CollateralOptions {
    CollateralOptions::default().with_evaluation_number(number)
}

fn number(store: &CollateralStore) -> Option<u32> {
    store.of(FMSPC).map(|collateral| collateral.evaluation_number())
}

#[test]
fn a_change_is_seen_and_a_bad_one_keeps_what_was_there() {
    let desk = Desk::new();
    desk.write("collateral.json", &desk.collateral(&numbered(20)), 1);
    let store = desk.open(desk.files());
    assert_eq!(number(&store), Some(20));
    let generation = store.of(FMSPC).unwrap();
    store.files.read_if_changed(&store);
    assert!(Arc::ptr_eq(&generation, &store.of(FMSPC).unwrap()), "unchanged is not read again");
    desk.write("collateral.json", &desk.collateral(&numbered(21)), 2);
    store.files.read_if_changed(&store);
    assert_eq!(number(&store), Some(21));
    desk.write("collateral.json", "half", 3);
    store.files.read_if_changed(&store);
    assert_eq!(number(&store), Some(21));
    desk.write("collateral.json", &desk.collateral(&numbered(22)), 3);
    store.files.read_if_changed(&store);
    assert_eq!(number(&store), Some(22), "it is looked at again, whatever its time");
}

#[test]
fn a_bundle_is_verified_family_by_family() {
    let desk = Desk::new();
    let other = SimulatorRoot::generate("other", desk.now).unwrap();
    let foreign = Document::parse(&other.collateral(&CollateralOptions { fmspc: [2; 6], ..numbered(20) }, desk.now).unwrap()).unwrap();
    let foreign = foreign.verify(&TrustAnchor::simulator(other.certificate_der()).unwrap(), desk.now).unwrap();
    let sources = || Sources { bundles: vec![desk.path("bundle.json")], ..Sources::default() };
    let bundle = |documents: &[&VerifiedDocument]| {
        Bundle::new("test", Some(Update::Standard), None, documents.iter().copied()).unwrap().to_json().unwrap()
    };
    let (twenty, nineteen) = (desk.verified(&numbered(20)), desk.verified(&numbered(19)));
    desk.write("bundle.json", &bundle(&[&foreign, &twenty]), 1);
    let store = desk.open(sources());
    assert_eq!((number(&store), store.of([2; 6]).is_none()), (Some(20), true));
    for (second, text) in [(2, bundle(&[&nineteen])), (3, bundle(&[&foreign])), (4, "{}".to_owned())] {
        desk.write("bundle.json", &text, second);
        store.files.read_if_changed(&store);
        assert_eq!(number(&store), Some(20), "{second}");
    }
    assert!(matches!(
        CollateralStore::open(sources(), desk.anchor(), Vec::new()),
        Err(CollateralStoreError::File(CollateralFileError::Bundle { .. }))
    ));
}

#[test]
fn nothing_older_than_what_is_known_is_put_in_force() {
    let desk = Desk::new();
    let store = CollateralStore::open(Sources::default(), desk.anchor(), vec![(FMSPC, 20)]).unwrap();
    let label = |options: &CollateralOptions| store.admit(desk.verified(options)).map_err(|refused| refused.label());
    assert_eq!(label(&numbered(19)), Err("collateral_rolled_back"), "an earlier process saw 20");
    assert_eq!(label(&numbered(20)), Ok(true));
    assert_eq!(label(&numbered(20)), Ok(false), "the same dates are no news");
    let older_list = Window { from: Window::CURRENT.from - 60, ..Window::CURRENT };
    assert_eq!(label(&CollateralOptions { pck_crl: older_list, ..numbered(20) }), Err("collateral_rolled_back"));
    assert_eq!(label(&CollateralOptions { pck_crl: older_list, ..numbered(21) }), Ok(true), "another evaluation is another generation");
    assert_eq!(label(&numbered(20)), Err("collateral_rolled_back"));
    assert_eq!(number(&store), Some(21));
}

#[test]
fn the_directory_is_read_at_the_start_and_its_bad_files_keep_no_good_ones_out() {
    let desk = Desk::new();
    kept::keep(&desk.path("kept"), desk.verified(&numbered(20)).document()).unwrap();
    let expired = CollateralOptions { fmspc: [3; 6], tcb_info: Window::EXPIRED, ..numbered(20) };
    kept::keep(&desk.path("kept"), &Document::parse(&desk.collateral(&expired)).unwrap()).unwrap();
    fs::write(desk.path("kept/020202020202.json"), "half").unwrap();
    fs::write(desk.path("kept/notes.json"), "no family").unwrap();
    let store = desk.open(Sources { directory: Some(desk.path("kept")), ..Sources::default() });
    assert_eq!((number(&store), store.current.load().len()), (Some(20), 1));
    kept::keep(&desk.path("kept"), desk.verified(&numbered(21)).document()).unwrap();
    touch(&desk.path(&format!("kept/{}.json", hex::encode(FMSPC))), desk.now + 5);
    store.files.read_if_changed(&store);
    assert_eq!(number(&store), Some(21), "an import arrives while the service runs");
    assert!(desk.open(Sources { directory: Some(desk.path("none")), ..Sources::default() }).of(FMSPC).is_none());
}

#[test]
fn of_file_and_verified_the_newer_counts() {
    let desk = Desk::new();
    desk.write("collateral.json", &desk.collateral(&numbered(20)), 1);
    let store = desk.open(desk.files());
    store.admit(desk.verified(&numbered(21))).unwrap();
    assert_eq!(number(&store), Some(21));
    desk.write("collateral.json", &desk.collateral(&numbered(22)), 2);
    store.files.read_if_changed(&store);
    assert_eq!(number(&store), Some(22));
}

#[test]
fn families_are_bounded() {
    let desk = Desk::new();
    let store = desk.open(Sources::default());
    let filler = Held::new(desk.verified(&numbered(20)).document().clone());
    lock(&store.shelves).verified =
        (0..FAMILIES_MAX as u64).map(|family| (family.to_be_bytes()[2..].try_into().unwrap(), filler.clone())).collect();
    assert_eq!(store.admit(desk.verified(&CollateralOptions { fmspc: [9; 6], ..numbered(20) })).unwrap_err(), Refused::TooMany);
}
