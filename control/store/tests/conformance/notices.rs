//! Promises about notices.

use bytes::Bytes;
use futures_util::StreamExt;
use sideguard_store::notices::LARGEST_NOTICE;
use sideguard_store::{Store, StoreError};

pub(crate) async fn a_notice_reaches_every_subscriber_of_its_topic(one: Store, other: Store) {
    one.notices.publish("policies", Bytes::from("nobody listens")).await.expect("a publish");
    let mut here = one.notices.subscribe("policies").await.expect("a subscription");
    let mut there = other.notices.subscribe("policies").await.expect("a subscription");
    let mut beside = other.notices.subscribe("policies.eu").await.expect("a subscription");
    let large = Bytes::from(vec![7; LARGEST_NOTICE]);
    for notice in [Bytes::from("a"), Bytes::new(), large.clone()] {
        one.notices.publish("policies", notice).await.expect("a publish");
    }
    other.notices.publish("policies.eu", Bytes::from("b")).await.expect("a publish");
    for notes in [&mut here, &mut there] {
        for notice in [Bytes::from("a"), Bytes::new(), large.clone()] {
            assert_eq!(notes.next().await, Some(notice));
        }
    }
    assert_eq!(beside.next().await, Some(Bytes::from("b")));
}

pub(crate) async fn a_bad_topic_is_refused(one: Store, other: Store) {
    for topic in ["", "*", ">", "a b", "a.>", "a/b", "A"] {
        let answer = one.notices.publish(topic, Bytes::new()).await;
        assert!(matches!(answer, Err(StoreError::Invalid(_))), "{topic}: {answer:?}");
        assert!(matches!(other.notices.subscribe(topic).await, Err(StoreError::Invalid(_))), "{topic}");
    }
    let answer = one.notices.publish("a", Bytes::from(vec![0; LARGEST_NOTICE + 1])).await;
    assert!(matches!(answer, Err(StoreError::Invalid(_))), "{answer:?}");
}
