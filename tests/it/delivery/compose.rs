//! The compose file.

use serde_json::Value;

use super::{deploy, objects, read};

fn compose() -> Value {
    objects(&read(&deploy("compose/compose.yaml"))).remove(0)
}

fn services(compose: &Value) -> impl Iterator<Item = (&String, &Value)> {
    compose["services"].as_object().expect("services").iter()
}

#[test]
fn containers_are_held_in_and_their_images_pinned() {
    let compose = compose();
    assert_eq!(services(&compose).count(), 5);
    for (name, service) in services(&compose) {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], serde_json::json!(["no-new-privileges:true"]), "{name}");
        let image = service["image"].as_str().expect("an image");
        let own = format!(":{}", env!("CARGO_PKG_VERSION"));
        assert!(image.contains("@sha256:") || image.ends_with(&own), "{name}: {image}");
        // Only this machine reaches what is open.
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().is_some_and(|port| port.starts_with("127.0.0.1:")), "{name}: {port}");
        }
    }
    assert_eq!(compose["networks"]["inside"]["internal"], true);
    for server in ["redis", "nats"] {
        assert_eq!(compose["services"][server]["networks"], serde_json::json!(["inside"]));
    }
}

#[test]
fn what_it_names_is_there() {
    let compose = compose();
    let dockerfile = read(&deploy("images/Dockerfile"));
    for (name, service) in services(&compose) {
        if let Some(target) = service["build"]["target"].as_str() {
            assert!(dockerfile.contains(&format!(" AS {target}\n")), "{name}: {target}");
        }
        for (list, all) in [("configs", &compose["configs"]), ("secrets", &compose["secrets"])] {
            for used in service[list].as_array().into_iter().flatten() {
                let used = used["source"].as_str().or(used.as_str()).expect("a name");
                assert!(all.get(used).is_some(), "{name}: {used}");
            }
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().and_then(|volume| volume.split(':').next()).expect("a name");
            assert!(compose["volumes"].get(volume).is_some(), "{name}: {volume}");
        }
    }
    for (name, config) in compose["configs"].as_object().expect("configs") {
        let file = deploy("compose").join(config["file"].as_str().expect("a file"));
        assert!(file.exists(), "{name}");
    }
}

#[test]
fn what_redis_and_nats_acknowledge_they_keep() {
    let compose = compose();
    let command = compose["services"]["redis"]["command"].to_string();
    for part in
        [r#""--appendonly","yes""#, r#""--appendfsync","always""#, r#""--maxmemory-policy","noeviction""#]
    {
        assert!(command.contains(part), "{command}");
    }
    assert!(read(&deploy("compose/nats.conf")).contains("sync_interval: always"));
}
