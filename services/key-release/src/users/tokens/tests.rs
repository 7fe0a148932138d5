//! Time: what counts until when, on a real store, with the clock as an argument.

use keyferry_bus::{Bucket, Role};
use keyferry_sealed_store::StoreKey;
use keyferry_testkit::nats::NatsServer;

use super::*;

const VALIDITY: Duration = Duration::from_mins(5);
const NOW: u64 = 1_800_000_000;

async fn replicas(nats: &NatsServer) -> [TokenKeys; 2] {
    let key = Arc::new(StoreKey::generate().unwrap());
    let one = async || {
        let bus = nats.connect(Role::KeyRelease).await.unwrap();
        TokenKeys::new(SealedStore::open(&bus, Bucket::Users, Arc::clone(&key)), VALIDITY)
    };
    [one().await, one().await]
}

fn claims_at(keys: &TokenKeys, now: u64) -> Claims {
    keys.claims(UserId::random(), "admin", Permission::ALL, now)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_for_its_validity_and_not_a_second_longer() {
    let nats = NatsServer::start().await.unwrap();
    let [one, other] = replicas(&nats).await;
    let (first, second) = tokio::join!(one.open(), other.open());
    first.and(second).unwrap();
    let claims = claims_at(&one, NOW);
    assert_eq!((claims.iat, claims.exp), (NOW - 60, NOW + 300 - 60));
    let token = one.sign(&claims).await.unwrap();
    // Used before, and in the last minute, in which Intel's server takes a token in for ever.
    for now in [NOW, NOW + 240, NOW + 241, NOW + 299] {
        assert!(one.verify(&token, now).await.is_ok() && other.verify(&token, now).await.is_ok(), "{now}");
    }
    for now in [NOW + 300, NOW + 301, NOW + 1_000_000, NOW - 61] {
        assert!(one.verify(&token, now).await.is_err() && other.verify(&token, now).await.is_err(), "{now}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_by_the_right_key_must_still_say_the_right_thing() {
    let nats = NatsServer::start().await.unwrap();
    let [keys, _] = replicas(&nats).await;
    keys.open().await.unwrap();
    let refused = async |alter: fn(&mut Claims)| {
        let mut claims = claims_at(&keys, NOW);
        alter(&mut claims);
        keys.verify(&keys.sign(&claims).await.unwrap(), NOW).await.is_err()
    };
    assert!(!refused(|_| {}).await);
    assert!(refused(|claims| claims.aud = vec!["other".to_owned()]).await);
    assert!(refused(|claims| claims.aud.clear()).await);
    assert!(refused(|claims| claims.sub = UserId::random()).await);
    assert!(refused(|claims| claims.exp += 3600).await, "no token counts for more than half an hour");
    assert!(refused(|claims| claims.nbf = NOW + 1).await);

    let current = keys.current().await.unwrap().unwrap();
    let signed_as = |alg: &str| {
        let key = &current.keys[0];
        let header = serde_json::json!({ "alg": alg, "kid": key.kid, "typ": "JWT" }).to_string();
        let claims = serde_json::to_vec(&claims_at(&keys, NOW)).unwrap();
        let message = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims));
        let mut signature = vec![0; key.pair.public_modulus_len()];
        key.pair.sign(&RSA_PSS_SHA384, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    };
    assert!(keys.verify(&signed_as("PS384"), NOW).await.is_ok());
    for other in ["none", "RS384", "PS256", "ps384"] {
        assert!(keys.verify(&signed_as(other), NOW).await.is_err(), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_key_vouches_for_its_old_tokens_alone_and_is_forgotten() {
    let nats = NatsServer::start().await.unwrap();
    let [one, other] = replicas(&nats).await;
    one.open().await.unwrap();
    let old = other.sign(&claims_at(&other, NOW)).await.unwrap();
    let old_keys = other.current().await.unwrap().unwrap();
    let replacement = one.prepare(None).await.unwrap();
    one.replace(replacement, NOW + 10).await.unwrap();
    assert!(other.verify(&old, NOW + 20).await.is_ok());
    let later = serde_json::to_vec(&claims_at(&other, NOW + 200)).unwrap();
    let later = old_keys.sign(&later).unwrap();
    assert!(other.verify(&later, NOW + 200).await.is_err(), "signed with the old key after it was retired");
    assert!(other.verify(&old, NOW + 299).await.is_ok() && other.verify(&old, NOW + 300).await.is_err());

    let replacement = one.prepare(None).await.unwrap();
    one.replace(replacement, NOW + 10 + 1800 + 60).await.unwrap();
    let kids: Vec<_> = one.current().await.unwrap().unwrap().keys.iter().map(|key| key.kid.clone()).collect();
    assert_eq!(kids.len(), 2, "the first key is gone");
    assert!(!kids.contains(&old_keys.keys[0].kid));
}
