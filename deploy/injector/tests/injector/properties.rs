//! What holds for every pod.

use proptest::prelude::*;
use serde_json::{Value, json};
use sideguard_injector::inject::inject;
use sideguard_injector::review::Webhook;
use sideguard_injector::settings::Settings;

use crate::common::{Verdict, ask, known, review};

/// Any JSON, not too deep.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Names that mean something in a pod, and others.
fn key() -> impl Strategy<Value = String> {
    let known = [
        "metadata",
        "spec",
        "containers",
        "initContainers",
        "ephemeralContainers",
        "volumes",
        "name",
        "env",
        "value",
        "valueFrom",
        "volumeMounts",
        "mountPath",
        "securityContext",
        "capabilities",
        "add",
        "drop",
        "annotations",
        "labels",
        "ports",
        "containerPort",
        "resources",
        "limits",
        "requests",
        "runAsUser",
        "privileged",
        "hostNetwork",
        "sideguard.dev/status",
        "sideguard.dev/inject",
        "imagePullSecrets",
        "nodeSelector",
        "os",
    ];
    prop_oneof![3 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[a-z~/.]{1,8}"]
}

fn container(name: String) -> impl Strategy<Value = Value> {
    let env = prop::collection::vec(("[A-Z]{1,4}|SSL_CERT_FILE|JAVA_TOOL_OPTIONS", "[a-z/]{0,8}"), 0..4)
        .prop_map(|variables| {
            variables
                .into_iter()
                .map(|(name, value)| json!({"name": name, "value": value}))
                .collect::<Vec<_>>()
        });
    let context = prop_oneof![
        Just(Value::Null),
        Just(json!({"runAsUser": 1000})),
        Just(json!({"capabilities": {"add": ["CHOWN"]}})),
        Just(json!({"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false})),
        Just(json!({"seccompProfile": {"type": "Unconfined"}, "allowPrivilegeEscalation": true})),
    ];
    (prop::option::of(env), context, prop::option::of(anything())).prop_map(move |(env, context, future)| {
        let mut container = json!({"name": name, "image": "a", "securityContext": context});
        if let Some(env) = env {
            container["env"] = json!(env);
        }
        if let Some(future) = future {
            container["futureField"] = future;
        }
        container
    })
}

fn list(prefix: &'static str, least: usize) -> impl Strategy<Value = Vec<Value>> {
    (least..4).prop_flat_map(move |count| {
        (0..count).map(|n| container(format!("{prefix}-{n}"))).collect::<Vec<_>>()
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let annotations = prop::sample::subsequence(
        vec![
            ("sideguard.dev/ca-mode", "env+java"),
            ("sideguard.dev/capture", "cni"),
            ("sideguard.dev/proxy-cpu", "1"),
            ("x/y~z", "1"),
        ],
        0..4,
    );
    (list("agent", 1), prop::option::of(list("init", 0)), annotations, anything()).prop_map(
        |(containers, inits, annotations, future)| {
            let annotations: serde_json::Map<String, Value> =
                annotations.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
            let mut pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": containers, "futureSpec": future}});
            if let Some(inits) = inits {
                pod["spec"]["initContainers"] = json!(inits);
            }
            pod
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn patched_twice_is_the_same_as_patched_once(pod in pod()) {
        let (known, settings) = (known(&json!({}), &json!({})), Settings::default());
        let once = ask(Webhook::Mutate, &review(&pod, "team"), &known, &settings).pod();
        let again = ask(Webhook::Mutate, &review(&once, "team"), &known, &settings);
        prop_assert!(matches!(&again, Verdict::Allowed(patch, _, _) if patch.is_empty()), "{again:?}");
        let last = ask(Webhook::Validate, &review(&once, "team"), &known, &settings);
        prop_assert!(matches!(&last, Verdict::Allowed(..)), "{last:?}");
    }

    #[test]
    fn what_is_not_known_stays(pod in pod()) {
        let (known, settings) = (known(&json!({}), &json!({})), Settings::default());
        let patched = ask(Webhook::Mutate, &review(&pod, "team"), &known, &settings).pod();
        prop_assert_eq!(&patched["spec"]["futureSpec"], &pod["spec"]["futureSpec"]);
        for (old, new) in pod["spec"]["containers"].as_array().expect("a list").iter().zip(patched["spec"]["containers"].as_array().expect("a list")) {
            prop_assert_eq!(old.get("futureField"), new.get("futureField"));
            prop_assert_eq!(old.get("image"), new.get("image"));
        }
    }

    #[test]
    fn no_json_makes_it_panic_or_patch_something_that_does_not_apply(pod in anything()) {
        let (known, settings) = (known(&json!({}), &json!({})), Settings::default());
        for webhook in [Webhook::Mutate, Webhook::Validate] {
            let body = review(&pod, "team");
            let facts = sideguard_injector::known::Facts::new(known.clone());
            let answered = sideguard_injector::review::answer(webhook, body.to_string().as_bytes(), &facts, &settings);
            let answered = answered.expect("an answer").review;
            let opted_out = pod.get("metadata").is_some();
            if answered["response"]["allowed"] == true && !opted_out {
                prop_assert!(webhook == Webhook::Mutate);
            }
            crate::common::verdict(&answered, &pod);
        }
        // The pure function, without a review around it.
        let _ = inject(&pod, "team", &known, &settings);
    }
}
