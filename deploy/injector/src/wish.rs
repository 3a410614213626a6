//! What one pod is to get: the configuration, over it the profile, over it what the pod asks for and may.

use serde_json::Value;
use sideguard_types::resource::{Amount, CaMode, Capture, InjectionSpec};

use crate::block::Block;
use crate::known::{Known, Namespace};
use crate::label;
use crate::pod::{self, noted};
use crate::quantity;
use crate::refusal::{Code, Refusal};
use crate::settings::{LEVELS, Settings};

/// What one pod is to get.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) tenant: &'a str,
    pub(crate) profile: String,
    /// Which state of the profile this is.
    pub(crate) generation: i64,
    pub(crate) injection: InjectionSpec,
    pub(crate) capture: Capture,
    pub(crate) ca_mode: CaMode,
    pub(crate) native: bool,
    pub(crate) cpu: Amount,
    pub(crate) memory: Amount,
    pub(crate) log_level: String,
    pub(crate) skip_cidrs: Vec<String>,
    pub(crate) skip_ports: Vec<u16>,
    /// Containers that are told of the sidecar; all when empty.
    agents: Vec<String>,
}

impl<'a> Wish<'a> {
    /// Reads it.
    pub(crate) fn read(
        pod: &Value,
        name: &'a str,
        namespace: &'a Namespace,
        known: &Known,
        settings: &'a Settings,
    ) -> Result<Self, Refusal> {
        familiar(pod)?;
        let tenant = namespace.tenant(name);
        if let Some(asked) = own(pod, label::TENANT)?
            && asked != tenant
        {
            return refuse(
                label::TENANT,
                format!("is `{asked}`, but the tenant of namespace `{name}` is `{tenant}`"),
            );
        }
        let profile = profile_name(pod, name, namespace)?;
        let found = known.profile(name, &profile).ok_or_else(|| {
            Refusal::new(Code::Profile, format!("there is no Agent `{profile}` in namespace `{name}`"))
        })?;
        let injection = found.agent.injection.clone().unwrap_or_default();
        let capture = capture(pod, &injection, settings)?;
        let spec = &settings.spec;
        let mut wish = Self {
            settings,
            tenant,
            profile,
            generation: found.generation,
            capture,
            ca_mode: ca_mode(pod, &injection, settings)?,
            native: settings.native(known),
            cpu: amount(pod, label::PROXY_CPU, &spec.proxy.cpu)?,
            memory: amount(pod, label::PROXY_MEMORY, &spec.proxy.memory)?,
            log_level: log_level(pod, settings)?,
            skip_cidrs: Vec::new(),
            skip_ports: Vec::new(),
            agents: agents(pod, &injection)?,
            injection,
        };
        wish.skip(pod)?;
        if guaranteed(pod, settings) {
            for amount in [&mut wish.cpu, &mut wish.memory] {
                amount.request.clone_from(&amount.limit);
            }
        }
        Ok(wish)
    }

    /// Whether a container is told of the sidecar.
    pub(crate) fn tells(&self, container: &str) -> bool {
        self.agents.is_empty() || self.agents.iter().any(|agent| agent == container)
    }

    /// What the pod asks to have left alone, as far as its profile lets it.
    fn skip(&mut self, pod: &Value) -> Result<(), Refusal> {
        let (cidrs, ports) =
            (noted(pod, "annotations", label::SKIP_CIDRS), noted(pod, "annotations", label::SKIP_PORTS));
        let permitted = &self.injection.skip_outbound;
        let asked = [(label::SKIP_CIDRS, cidrs), (label::SKIP_PORTS, ports)];
        if self.capture == Capture::Explicit
            && let Some((key, _)) = asked.into_iter().find(|(_, value)| value.is_some())
        {
            return refuse(key, "has no meaning with `capture: explicit`, where nothing is redirected");
        }
        for text in items(cidrs) {
            let bad = || {
                Refusal::new(
                    Code::Annotation,
                    format!("annotation `{}`: `{text}` is no block of addresses", label::SKIP_CIDRS),
                )
            };
            let block = Block::parse(text).ok_or_else(bad)?;
            if !permitted.cidrs.iter().filter_map(|own| Block::parse(own)).any(|own| own.holds(block)) {
                return refuse(
                    label::SKIP_CIDRS,
                    format!("asks for `{text}`, which the profile does not permit"),
                );
            }
            self.skip_cidrs.push(text.to_owned());
        }
        for text in items(ports) {
            match text.parse::<u16>() {
                Ok(port) if permitted.ports.contains(&port) => self.skip_ports.push(port),
                Ok(_) => {
                    return refuse(
                        label::SKIP_PORTS,
                        format!("asks for `{text}`, which the profile does not permit"),
                    );
                }
                Err(_) => return refuse(label::SKIP_PORTS, format!("holds `{text}`, which is no port")),
            }
        }
        Ok(())
    }
}

/// Whether the pod asks to be left out.
pub(crate) fn opts_out(pod: &Value, namespace: &Namespace) -> Result<bool, Refusal> {
    match own(pod, label::INJECT)? {
        None | Some("enabled") => Ok(false),
        Some("disabled") => {
            let allowed = [&namespace.labels, &namespace.annotations]
                .into_iter()
                .any(|map| map.get(label::ALLOW_OPT_OUT).is_some_and(|value| value == "true"));
            if allowed {
                return Ok(true);
            }
            let what = format!(
                "`{}: disabled` has no effect here: the namespace does not have `{}: \"true\"`",
                label::INJECT,
                label::ALLOW_OPT_OUT
            );
            Err(Refusal::new(Code::OptOut, what))
        }
        Some(other) => refuse(label::INJECT, format!("is `{other}`: write `enabled` or `disabled`")),
    }
}

/// No key of ours that is not known.
fn familiar(pod: &Value) -> Result<(), Refusal> {
    for (what, known) in [("annotations", &label::ANNOTATIONS[..]), ("labels", &label::LABELS[..])] {
        for (key, _) in pod::metadata(pod, what) {
            if key.starts_with(label::PREFIX) && !known.contains(&key) {
                let one = what.trim_end_matches('s');
                return Err(Refusal::new(Code::Annotation, format!("there is no {one} `{key}`")));
            }
        }
    }
    Ok(())
}

/// What the pod says as a label or as an annotation, but not one thing here and another there.
fn own<'p>(pod: &'p Value, key: &str) -> Result<Option<&'p str>, Refusal> {
    match (noted(pod, "labels", key), noted(pod, "annotations", key)) {
        (Some(label), Some(annotation)) if label != annotation => {
            refuse(key, format!("is `{annotation}`, but the label of the same name is `{label}`"))
        }
        (label, annotation) => Ok(label.or(annotation)),
    }
}

fn profile_name(pod: &Value, name: &str, namespace: &Namespace) -> Result<String, Refusal> {
    let default =
        || namespace.labels.get(label::DEFAULT_PROFILE).or(namespace.annotations.get(label::DEFAULT_PROFILE));
    match own(pod, label::PROFILE)?.or_else(|| default().map(String::as_str)) {
        Some(profile) if !profile.is_empty() => Ok(profile.to_owned()),
        _ => Refusal::err(
            Code::Profile,
            format!(
                "no profile: give the pod the label `{}`, or the namespace `{name}` the label `{}`, with the name of an Agent",
                label::PROFILE,
                label::DEFAULT_PROFILE
            ),
        ),
    }
}

/// A pod may ask for a stricter way than the profile's, not for one without rules.
fn capture(pod: &Value, injection: &InjectionSpec, settings: &Settings) -> Result<Capture, Refusal> {
    let base = injection.capture.unwrap_or(settings.spec.capture);
    match choice(pod, label::CAPTURE)? {
        None => Ok(base),
        Some(Capture::Explicit) if base != Capture::Explicit => refuse(
            label::CAPTURE,
            "asks for `explicit`, but the profile has the pod's connections redirected",
        ),
        Some(asked) => Ok(asked),
    }
}

fn ca_mode(pod: &Value, injection: &InjectionSpec, settings: &Settings) -> Result<CaMode, Refusal> {
    Ok(choice(pod, label::CA_MODE)?.or(injection.ca_mode).unwrap_or(settings.spec.ca_mode))
}

fn choice<T: serde::de::DeserializeOwned>(pod: &Value, key: &str) -> Result<Option<T>, Refusal> {
    let Some(text) = noted(pod, "annotations", key) else { return Ok(None) };
    match serde_json::from_value(Value::String(text.to_owned())) {
        Ok(value) => Ok(Some(value)),
        Err(error) => refuse(key, format!("cannot be followed: {error}")),
    }
}

fn amount(pod: &Value, key: &str, default: &Amount) -> Result<Amount, Refusal> {
    match noted(pod, "annotations", key) {
        None => Ok(default.clone()),
        Some(text) if quantity::milli(text).is_some_and(|value| value > 0) => {
            Ok(Amount { request: text.to_owned(), limit: text.to_owned() })
        }
        Some(text) => refuse(key, format!("is `{text}`, which is no amount such as `100m` or `64Mi`")),
    }
}

fn log_level(pod: &Value, settings: &Settings) -> Result<String, Refusal> {
    match noted(pod, "annotations", label::LOG_LEVEL) {
        None => Ok(settings.spec.proxy.log_level.clone()),
        Some(level) if LEVELS.contains(&level) => Ok(level.to_owned()),
        Some(level) => {
            refuse(label::LOG_LEVEL, format!("is `{level}`, which is none of {}", LEVELS.join(", ")))
        }
    }
}

fn agents(pod: &Value, injection: &InjectionSpec) -> Result<Vec<String>, Refusal> {
    let asked: Vec<String> =
        items(noted(pod, "annotations", label::AGENT_CONTAINERS)).map(str::to_owned).collect();
    for name in &asked {
        if !pod::containers(pod).any(|container| container.name == name) {
            return refuse(
                label::AGENT_CONTAINERS,
                format!("names `{name}`, and the pod has no such container"),
            );
        }
    }
    Ok(if asked.is_empty() { injection.agent_containers.clone() } else { asked })
}

/// Whether the pod without us is of the quality of service Guaranteed: each container's limits are what it is promised.
fn guaranteed(pod: &Value, settings: &Settings) -> bool {
    let mut any = false;
    let all = pod::containers(pod)
        .filter(|container| container.list != "ephemeralContainers" && !crate::parts::is_ours(container.name))
        .filter(|container| !settings.spec.mesh.containers.iter().any(|name| name == container.name))
        .all(|container| {
            any = true;
            ["cpu", "memory"].into_iter().all(|what| {
                let of = |which: &str| container.body.pointer(&format!("/resources/{which}/{what}"));
                let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let limit = of("limits").map(text);
                let request = of("requests").map(text).or_else(|| limit.clone());
                limit.zip(request).is_some_and(|(limit, request)| quantity::same(&limit, &request))
            })
        });
    any && all
}

fn items(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.into_iter().flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

fn refuse<T>(key: &str, what: impl std::fmt::Display) -> Result<T, Refusal> {
    Err(Refusal::new(Code::Annotation, format!("annotation `{key}` {what}")))
}
