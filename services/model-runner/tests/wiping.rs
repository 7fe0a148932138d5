//! After a reset neither model nor key is left in the process: its whole memory is read and searched.
//!
//! The needles are kept masked, so that the search does not find itself; the allocator is the one of the real binary.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod support;

use std::{
    alloc::System,
    fs::{self, File},
    io::BufRead,
    os::unix::fs::FileExt,
};

use keyferry_key_wrap::KeyMaterial;
use keyferry_model_envelope::{ChunkSize, Header, MediaType, ModelName, one_shot, seal};
use memmap2::MmapMut;
use model_runner::{
    events::Cause,
    runtime::{Tensor, Values},
};
use support::{KEY_ID, Stand, peers::FakeBroker};
use zeroizing_alloc::ZeroAlloc;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

const MASK: u8 = 0x5b;
const SCAN_BYTES: usize = 1 << 20;

/// Bytes to look for, never unmasked as a whole.
struct Needle(Vec<u8>);

impl Needle {
    fn new(bytes: impl Iterator<Item = u8>) -> Self {
        Self(bytes.map(|byte| byte ^ MASK).collect())
    }
    fn is_in(&self, memory: &[u8]) -> bool {
        let mut rest = memory;
        // Jumps from one first byte to the next; the library's own search is fast in debug builds too.
        while rest.skip_until(self.0[0] ^ MASK).is_ok_and(|skipped| skipped > 0) {
            let tail = &self.0[1..];
            if rest.len() >= tail.len() && rest.iter().zip(tail).all(|(found, wanted)| *found == wanted ^ MASK) {
                return true;
            }
        }
        false
    }
}

/// Reads every mapping that this process can write to, but the buffer it reads into.
fn is_in_memory(needle: &Needle) -> bool {
    let mut buffer = MmapMut::map_anon(SCAN_BYTES).unwrap();
    let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + SCAN_BYTES as u64;
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut found = false;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        // The kernel merges neighbouring mappings: leave out exactly the buffer.
        for (start, end) in [(start, end.min(own.start)), (start.max(own.end), end)] {
            found |= start < end && is_between(needle, &memory, start, end, &mut buffer);
        }
    }
    found
}

fn is_between(needle: &Needle, memory: &File, start: u64, end: u64, buffer: &mut [u8]) -> bool {
    let length = needle.0.len();
    let mut at = start;
    while at < end {
        let wanted = usize::try_from(end - at).unwrap().min(buffer.len());
        let Ok(read) = memory.read_at(&mut buffer[..wanted], at) else { return false };
        if read < length {
            return false;
        }
        if needle.is_in(&buffer[..read]) {
            return true;
        }
        at += (read - length + 1) as u64;
    }
    false
}

/// A random key that exists masked only, and the two places that need it.
fn key() -> (Vec<u8>, Needle) {
    let masked = KeyMaterial::random(32).unwrap().expose().to_vec();
    let needle = Needle::new(masked.iter().map(|byte| byte ^ FakeBroker::mask()));
    (masked, needle)
}
fn unmasked(masked: &[u8]) -> KeyMaterial {
    KeyMaterial::new(masked.iter().map(|byte| byte ^ FakeBroker::mask()).collect::<Vec<u8>>()).unwrap()
}
fn model_file(name: &str) -> Vec<u8> {
    fs::read(format!("{}/../../models/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

async fn predict(stand: &Stand, width: usize) {
    let input = Tensor { name: "features".into(), shape: vec![1, width], values: Values::Fp32(vec![1.0; width]) };
    stand.runner.infer(stand.runner.model().unwrap(), vec![input]).await.unwrap();
}

/// One test, so that no other one runs in this process meanwhile.
#[tokio::test]
async fn after_a_reset_nothing_of_model_and_key_is_left() {
    let (masked, key_needle) = key();
    let text = Needle::new(model_file("diabetes-linreg.model").into_iter());
    let weights = {
        let text = String::from_utf8(model_file("diabetes-linreg.model")).unwrap();
        let bytes = text.split(' ').take(4).flat_map(|number| f64::from(number.parse::<f32>().unwrap()).to_ne_bytes());
        Needle::new(bytes)
    };
    let sealed = one_shot::seal(&unmasked(&masked), &model_file("diabetes-linreg.model")).unwrap();
    let stand = Stand::start(&sealed, 1);
    stand.broker.release_masked(masked.clone());
    stand.runner.load().await.unwrap();
    predict(&stand, 8).await;
    assert!(is_in_memory(&weights), "a served model's weights are in memory, or this search finds nothing");
    assert!(!is_in_memory(&text), "the decrypted text is wiped once the model is built");
    assert!(!is_in_memory(&key_needle), "the key is wiped once the model is open");
    stand.runner.reset(Cause::Requested).await;
    assert!(!is_in_memory(&weights), "the weights are wiped with the model");

    // The same for ONNX, whose runtime copies weights into its own heap.
    let onnx = model_file("breast-cancer.onnx");
    // The initializer's raw data, 120 bytes, follows its name, a field tag and a length.
    let raw = onnx.windows(9).position(|window| window == b"weightsJx").unwrap() + 9;
    let weights = Needle::new(onnx[raw..].iter().copied().take(64));
    let header = Header::new(uuid::Uuid::parse_str(KEY_ID).unwrap(), MediaType::parse("onnx").unwrap(), ModelName::parse("m").unwrap());
    let sealed = seal(&unmasked(&masked), &header, ChunkSize::DEFAULT, &onnx).unwrap();
    let whole = Needle::new(onnx.iter().copied());
    drop(onnx);
    fs::write(stand.model_file(), sealed).unwrap();
    stand.runner.load().await.unwrap();
    predict(&stand, 30).await;
    assert!(is_in_memory(&weights), "a served model's weights are in memory");
    assert!(!is_in_memory(&whole), "the decrypted file is wiped once the model is built");
    assert!(!is_in_memory(&key_needle), "the key is wiped once the model is open");
    stand.runner.reset(Cause::Requested).await;
    assert!(!is_in_memory(&weights), "the weights are wiped with the model");
}
