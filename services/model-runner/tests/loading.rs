//! The job against scripted peers: what a good answer leads to, and what each bad one is refused as.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod support;

use std::{
    fs,
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keyferry_contract::{
    Reason,
    model::v1::{ModelExecuted, ModelLoaded, ModelReset},
    release::v1::transfer_key_request::Credential,
};
use keyferry_lifecycle::clock;
use keyferry_model_envelope::{Kfm1, one_shot};
use keyferry_tls::CertificateAuthority;
use model_runner::{
    events::{Cause, ModelEvent},
    runtime::{Tensor, Values},
};
use support::{
    KEY_ID, Stand, TD_ID,
    peers::{RELEASE_ID, Script},
    sealed_linreg, sealed_onnx,
};
use tokio_util::sync::CancellationToken;

fn row() -> Vec<Tensor> {
    let values = vec![1.0, 128.0, 88.0, 39.0, 110.0, 36.5, 1.057, 37.0];
    vec![Tensor { name: "features".into(), shape: vec![1, 8], values: Values::Fp32(values) }]
}

async fn load_fails(stand: &Stand) -> Reason {
    stand.runner.load().await.unwrap_err().reason
}

#[tokio::test]
async fn a_released_key_opens_the_model_and_the_td_says_so() {
    let sealed = sealed_linreg(1);
    let mut stand = Stand::start(&sealed, 1);
    stand.runner.load().await.unwrap();

    let transfers = stand.broker.transfers();
    assert_eq!(transfers.len(), 1);
    assert_eq!(transfers[0].key_id, KEY_ID);
    let held = stand.attester.held();
    assert_eq!((held.len(), held[0].len()), (1, 388), "one attestation, bound to an RSA-3072 public key in Intel's form");

    let ModelEvent::Loaded(loaded) = stand.event() else { panic!("ModelLoaded expected") };
    let wanted = ModelLoaded {
        td_id: TD_ID.into(),
        model_name: "diabetes".into(),
        model_format: "intel-linreg".into(),
        model_digest: one_shot::digest(&sealed).as_bytes().to_vec(),
        key_id: KEY_ID.into(),
        release_id: RELEASE_ID.into(),
        loaded_at: loaded.loaded_at,
    };
    assert_eq!(loaded, wanted);
    assert!(loaded.loaded_at.is_some());

    let model = stand.runner.model().unwrap();
    let outputs = stand.runner.infer(model, row()).await.unwrap();
    assert_eq!(outputs[0].values, Values::Int64(vec![1]));

    stand.runner.reset(Cause::Requested).await;
    assert!(stand.runner.model().is_none());
    let ModelEvent::Executed(ModelExecuted { predictions: 1, .. }) = stand.event() else { panic!("ModelExecuted expected") };
    let ModelEvent::Reset(ModelReset { cause, .. }) = stand.event() else { panic!("ModelReset expected") };
    assert_eq!(cause, "requested");
}

#[tokio::test]
async fn a_kfm1_model_names_its_own_key_and_itself() {
    let sealed = sealed_onnx(1);
    let mut stand = Stand::start(&sealed, 1);
    stand.runner.load().await.unwrap();
    let ModelEvent::Loaded(loaded) = stand.event() else { panic!("ModelLoaded expected") };
    assert_eq!((loaded.model_name.as_str(), loaded.model_format.as_str()), ("breast-cancer", "onnx"));
    assert_eq!(loaded.model_digest, Kfm1::parse(&sealed).unwrap().digest().as_bytes());
}

#[tokio::test]
async fn every_attestation_uses_another_key_pair() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    stand.runner.load().await.unwrap();
    stand.runner.load().await.unwrap();
    let held = stand.attester.held();
    assert_eq!(held.len(), 2);
    assert_ne!(held[0], held[1]);
}

#[tokio::test]
async fn another_models_key_is_refused_and_the_old_model_stays() {
    for (sealed, reason) in [(sealed_onnx(2), Reason::ModelKeyWrong), (sealed_linreg(2), Reason::ModelCorrupt)] {
        let mut stand = Stand::start(&sealed_linreg(1), 1);
        stand.runner.load().await.unwrap();
        let _loaded = stand.event();
        fs::write(stand.model_file(), sealed).unwrap();
        assert_eq!(load_fails(&stand).await, reason);
        assert_eq!(stand.runner.model().unwrap().name.as_str(), "diabetes");
        assert!(stand.no_event());
    }
}

#[tokio::test]
async fn a_model_with_one_byte_changed_is_refused() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    for (sealed, places) in [(sealed_linreg(1), [0, 50, 112]), (sealed_onnx(1), [300, 500, 900])] {
        for at in places {
            let mut changed = sealed.clone();
            changed[at] ^= 0x10;
            fs::write(stand.model_file(), changed).unwrap();
            assert_eq!(load_fails(&stand).await, Reason::ModelCorrupt, "byte {at}");
        }
    }
    for sealed in [sealed_linreg(1), sealed_onnx(1)] {
        for length in [0, 10, 27] {
            fs::write(stand.model_file(), &sealed[..length]).unwrap();
            assert_eq!(load_fails(&stand).await, Reason::ModelCorrupt, "{length} bytes");
        }
    }
    assert!(stand.runner.model().is_none());
}

#[tokio::test]
async fn a_file_that_opens_to_no_model_is_refused() {
    let stand = Stand::start(&one_shot::seal(&support::key(1), b"eight numbers are 1 2 3").unwrap(), 1);
    assert_eq!(load_fails(&stand).await, Reason::ModelMalformed);
    fs::write(stand.model_file(), one_shot::seal(&support::key(1), b"").unwrap()).unwrap();
    assert_eq!(load_fails(&stand).await, Reason::ModelMalformed);
}

#[tokio::test]
async fn a_wrapped_key_that_was_altered_or_made_for_another_is_refused() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    for script in [Script::AlteredKey, Script::ForeignKey, Script::Empty] {
        stand.broker.script(script);
        assert_eq!(load_fails(&stand).await, Reason::WrappedKeyInvalid, "{script:?}");
    }
    stand.broker.script(Script::Good);
    stand.runner.load().await.unwrap();
}

#[tokio::test]
async fn a_key_that_the_kms_wrapped_opens_the_model() {
    let mut stand = Stand::start(&sealed_linreg(1), 1);
    stand.broker.script(Script::KmsWrapped);
    stand.runner.load().await.unwrap();
    let ModelEvent::Loaded(loaded) = stand.event() else { panic!("ModelLoaded expected") };
    assert_eq!(loaded.release_id, RELEASE_ID);
    let outputs = stand.runner.infer(stand.runner.model().unwrap(), row()).await.unwrap();
    assert_eq!(outputs[0].values, Values::Int64(vec![1]));
    for script in [Script::KmsAltered, Script::KmsForeign, Script::BothForms] {
        stand.broker.script(script);
        assert_eq!(load_fails(&stand).await, Reason::WrappedKeyInvalid, "{script:?}");
    }
}

#[tokio::test]
async fn a_peers_reason_comes_through_and_its_text_does_not() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    for reason in [Reason::PolicyMismatch, Reason::KmsDenied, Reason::AuditUnavailable, Reason::TokenExpired] {
        stand.broker.script(Script::Refuse(reason));
        let refusal = stand.runner.load().await.unwrap_err();
        assert_eq!(refusal.reason, reason);
        assert!(!refusal.to_string().contains("text of the peer"));
    }
    stand.broker.script(Script::Bare(tonic::Code::PermissionDenied));
    assert_eq!(load_fails(&stand).await, Reason::Internal);
    stand.broker.script(Script::Good);
    let asked = stand.broker.transfers().len();
    for reason in [Reason::TcbStatusNotAllowed, Reason::BusUnavailable, Reason::PlatformUnavailable] {
        stand.attester.script(Script::Refuse(reason));
        assert_eq!(load_fails(&stand).await, reason);
    }
    stand.attester.script(Script::Empty);
    assert_eq!(load_fails(&stand).await, Reason::TokenMalformed);
    assert_eq!(stand.broker.transfers().len(), asked, "nobody asks for a key without a token");
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_worth_a_retry() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    stand.broker.stop();
    let refusal = stand.runner.load().await.unwrap_err();
    assert_eq!((refusal.reason, refusal.is_retryable()), (Reason::KmsUnavailable, true));

    let stand = Stand::with(&sealed_linreg(1), 1, &["attester.socket=/nonexistent/attester.sock"]);
    let refusal = stand.runner.load().await.unwrap_err();
    assert_eq!((refusal.reason, refusal.is_retryable()), (Reason::PlatformUnavailable, true));
}

#[tokio::test]
async fn a_broker_under_another_root_gets_no_token() {
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("other-ca.pem");
    CertificateAuthority::generate("test root", clock::now(), 2).unwrap().write_certificate(&file).unwrap();
    let setting = format!("key_broker.ca_file={}", file.display());
    let stand = Stand::with(&sealed_linreg(1), 1, &[&setting]);
    assert_eq!(load_fails(&stand).await, Reason::KmsUnavailable);
    assert!(stand.broker.transfers().is_empty());
}

#[tokio::test]
async fn in_background_check_mode_evidence_over_the_brokers_nonce_is_shown() {
    let stand = Stand::with(&sealed_linreg(1), 1, &["key_broker.mode=background-check"]);
    stand.runner.load().await.unwrap();
    let transfers = stand.broker.transfers();
    let Some(Credential::Evidence(evidence)) = &transfers[0].credential else { panic!("evidence expected") };
    assert_eq!(evidence.nonce.as_ref().unwrap().val, b"val");
    assert_eq!(evidence.user_data, stand.attester.held()[0]);
    stand.broker.script(Script::Empty);
    assert_eq!(load_fails(&stand).await, Reason::NonceMissing);
}

#[tokio::test]
async fn what_cannot_succeed_is_refused_before_anybody_is_asked() {
    let other_key = "model.key_id=00000000-0000-4000-8000-000000000000";
    let stand = Stand::with(&sealed_onnx(1), 1, &[other_key]);
    assert_eq!(load_fails(&stand).await, Reason::ModelKeyWrong);
    fs::remove_file(stand.model_file()).unwrap();
    assert_eq!(load_fails(&stand).await, Reason::ModelMalformed);
    assert!(stand.attester.held().is_empty());

    let stand = Stand::with(&sealed_onnx(1), 1, &["model.bytes_max=500"]);
    assert_eq!(load_fails(&stand).await, Reason::RequestTooLarge);
    assert!(stand.attester.held().is_empty());
}

/// Eight computing while one resets and loads: every answer is a right one, and nothing falls over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executing_while_resetting_and_loading_is_safe() {
    let stand = Stand::with(&sealed_linreg(1), 1, &["compute.queue=1000"]);
    let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (runner, stop, answered) = (Arc::clone(&stand.runner), stop.clone(), Arc::clone(&answered));
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                if let Some(model) = runner.model() {
                    let outputs = runner.infer(model, row()).await.unwrap();
                    assert_eq!(outputs[0].values, Values::Int64(vec![1]));
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 1..=3 {
        stand.runner.load().await.unwrap();
        while answered.load(Ordering::SeqCst) < round * 50 {
            tokio::task::yield_now().await;
        }
        stand.runner.reset(Cause::Requested).await;
    }
    stop.cancel();
    tasks.join_all().await;
    assert!(stand.runner.model().is_none());
}

#[tokio::test]
async fn more_than_the_queue_holds_is_refused_at_once() {
    let stand = Stand::with(&sealed_linreg(1), 1, &["compute.workers=1", "compute.queue=1"]);
    stand.runner.load().await.unwrap();
    let model = || stand.runner.model().unwrap();
    let big = || vec![Tensor { name: "features".into(), shape: vec![4096, 8], values: Values::Fp32(vec![1.0; 4096 * 8]) }];
    let (first, second) = tokio::join!(biased; stand.runner.infer(model(), big()), stand.runner.infer(model(), row()));
    assert!(first.is_ok());
    assert_eq!(second.unwrap_err().reason, Reason::Overloaded);
    assert!(stand.runner.infer(model(), row()).await.is_ok(), "and then there is room again");
}

/// The model's file becomes a pipe: who reads it waits for what is written here.
fn pipe(stand: &Stand) -> PathBuf {
    let path = stand.model_file();
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Waits until the pipe is read from.
async fn opened(path: PathBuf) -> fs::File {
    tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(path).unwrap()).await.unwrap()
}

#[tokio::test]
async fn the_bound_holds_for_a_file_that_does_not_tell_its_size() {
    let sealed = sealed_linreg(1);
    let stand = Stand::with(&sealed, 1, &["model.bytes_max=100"]);
    let path = pipe(&stand);
    let (reason, ()) = tokio::join!(load_fails(&stand), async {
        let _broken_pipe = opened(path).await.write_all(&sealed);
    });
    assert_eq!(reason, Reason::RequestTooLarge);
}

#[tokio::test]
async fn a_reset_is_the_last_word_on_a_load_that_began_before() {
    let sealed = sealed_linreg(1);
    let mut stand = Stand::start(&sealed, 1);
    let path = pipe(&stand);
    let load = async |stand: &Stand, cause: Cause| {
        let (loaded, ()) = tokio::join!(stand.runner.load(), async {
            let mut file = opened(path.clone()).await;
            stand.runner.reset(cause).await;
            file.write_all(&sealed).unwrap();
        });
        loaded
    };
    load(&stand, Cause::Requested).await.unwrap();
    assert!(stand.runner.model().is_none() && stand.no_event(), "not served, and nothing told");

    let (loaded, ()) = tokio::join!(stand.runner.load(), async { opened(path.clone()).await.write_all(&sealed).unwrap() });
    assert!(loaded.is_ok() && stand.runner.model().is_some(), "a load that begins later counts");
    let ModelEvent::Loaded(_) = stand.event() else { panic!("ModelLoaded expected") };
    load(&stand, Cause::Shutdown).await.unwrap();
    let (loaded, ()) = tokio::join!(stand.runner.load(), async { opened(path.clone()).await.write_all(&sealed).unwrap() });
    assert!(loaded.is_ok() && stand.runner.model().is_none(), "none after the end");
}

#[tokio::test]
async fn what_happened_is_told_though_the_caller_hung_up() {
    let mut stand = Stand::start(&sealed_linreg(1), 1);
    stand.runner.load().await.unwrap();
    let ModelEvent::Loaded(_) = stand.event() else { panic!("ModelLoaded expected") };
    let next = async |stand: &mut Stand| tokio::time::timeout(Duration::from_secs(5), stand.events.recv()).await.unwrap().unwrap().0;

    // A share of the old model, as a running prediction has it: its end is waited for, by callers who do not stay.
    let old = stand.runner.model().unwrap();
    let runner = Arc::clone(&stand.runner);
    let load = tokio::spawn(async move { runner.load().await });
    while Arc::ptr_eq(&stand.runner.model().unwrap(), &old) {
        tokio::task::yield_now().await;
    }
    load.abort();
    assert!(load.await.unwrap_err().is_cancelled());
    drop(old);
    let ModelEvent::Reset(_) = next(&mut stand).await else { panic!("ModelReset of the old model expected") };
    let ModelEvent::Loaded(_) = next(&mut stand).await else { panic!("ModelLoaded of the new model expected") };

    let old = stand.runner.model().unwrap();
    let reset = tokio::time::timeout(Duration::ZERO, stand.runner.reset(Cause::Requested)).await;
    assert!(reset.is_err() && stand.runner.model().is_none(), "asked, and given up");
    drop(old);
    let ModelEvent::Reset(_) = next(&mut stand).await else { panic!("ModelReset expected") };
}
