//! Where the control service is, and the key to ask it by: flags, else the environment, else what a control service on
//! this machine has left in the state directory.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sideguard_client::{Client, Identity};
use sideguard_runtime::environment;
use sideguard_runtime::secret::Secret;

use super::{BAD_CONFIGURATION, Failure, Outcome};

/// Flags that say where control is.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Control service")]
pub(crate) struct Place {
    /// Its address; else SIDEGUARD_CONTROL_URL, else the one that runs on this machine.
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// File with the key to ask it by; else SIDEGUARD_KEY or SIDEGUARD_KEY_FILE.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// File with the root certificates to check it by, in PEM; else SIDEGUARD_CA_FILE, else the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// File with a certificate to show to it, in PEM; else SIDEGUARD_CERTIFICATE_FILE.
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<PathBuf>,
    /// File with that certificate's private key, in PEM; else SIDEGUARD_CERTIFICATE_KEY_FILE.
    #[arg(long, value_name = "FILE")]
    certificate_key_file: Option<PathBuf>,
    /// State directory in which a control service of this machine is looked for.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// What a control service leaves in `ports.json`; other programs' keys are theirs.
#[derive(Debug, Default, Deserialize)]
struct Ports {
    control: Option<String>,
    operator_key_file: Option<PathBuf>,
}

/// Address, key and roots.
#[derive(Debug)]
struct Found {
    url: String,
    key: Option<Secret<String>>,
    roots: Option<Vec<u8>>,
    own: Option<Identity>,
}

impl Place {
    /// The service at `url`, asked by the key that is known here for it.
    pub(crate) fn at(url: &str) -> Self {
        Self { control: Some(url.to_owned()), ..Self::default() }
    }

    /// The service that these flags name.
    pub(crate) fn new(
        control: Option<String>,
        key_file: Option<PathBuf>,
        ca_file: Option<PathBuf>,
        state: Option<PathBuf>,
    ) -> Self {
        Self { control, key_file, ca_file, state, ..Self::default() }
    }

    /// The service's address.
    pub(crate) fn address(&self) -> Outcome<String> {
        Ok(self.find(&environment::variable)?.url)
    }

    /// A client of the service.
    pub(crate) fn client(&self) -> Outcome<Client> {
        let found = self.find(&environment::variable)?;
        Ok(Client::with_identity(&found.url, found.key, found.roots.as_deref(), found.own.as_ref())?)
    }

    fn find(&self, variable: &dyn Fn(&str) -> Option<String>) -> Outcome<Found> {
        let state = self.state.clone().unwrap_or_else(environment::state_directory);
        let ports = ports(&state)?;
        let named = self.control.clone().or_else(|| variable("SIDEGUARD_CONTROL_URL"));
        let url = named.or_else(|| ports.control.clone()).ok_or_else(|| {
            Failure::new(BAD_CONFIGURATION, format!("no control service is known in `{}`", state.display()))
                .hint("start one with `sideguard control`, or name one: `--control URL` or SIDEGUARD_CONTROL_URL")
        })?;
        let key = match (&self.key_file, variable("SIDEGUARD_KEY"), variable("SIDEGUARD_KEY_FILE")) {
            (Some(file), ..) => Some(key(file)?),
            (None, Some(key), _) => Some(Secret::new(key.trim().to_owned())),
            (None, None, Some(file)) => Some(key(Path::new(&file))?),
            // This machine's key is told to this machine's service and to no other.
            (None, None, None) if ports.control.as_ref() == Some(&url) => {
                ports.operator_key_file.map(|file| key(&state.join(file))).transpose()?
            }
            (None, None, None) => None,
        };
        let file = |flag: &Option<PathBuf>, name: &str| {
            let file = flag.clone().or_else(|| variable(name).map(PathBuf::from));
            file.map(|file| fs::read(&file).map_err(|error| unread("PEM", &file, &error))).transpose()
        };
        let roots = file(&self.ca_file, "SIDEGUARD_CA_FILE")?;
        let certificate = file(&self.certificate_file, "SIDEGUARD_CERTIFICATE_FILE")?;
        let private = file(&self.certificate_key_file, "SIDEGUARD_CERTIFICATE_KEY_FILE")?;
        let own = match (certificate, private) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key: Secret::new(key) }),
            (None, None) => None,
            _ => {
                let what = "a client certificate needs both its file and its key's file";
                return Err(Failure::new(BAD_CONFIGURATION, what)
                    .hint("give `--certificate-file FILE` and `--certificate-key-file FILE`"));
            }
        };
        Ok(Found { url, key, roots, own })
    }
}

fn ports(state: &Path) -> Outcome<Ports> {
    let file = state.join("ports.json");
    match fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| Failure::new(BAD_CONFIGURATION, format!("`{}`: {error}", file.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ports::default()),
        Err(error) => Err(unread("ports", &file, &error)),
    }
}

fn key(file: &Path) -> Outcome<Secret<String>> {
    let text = fs::read_to_string(file).map_err(|error| unread("key", file, &error))?;
    Ok(Secret::new(text.trim().to_owned()))
}

fn unread(what: &str, file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(BAD_CONFIGURATION, format!("cannot read the {what} file `{}`: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Place;

    const NONE: &dyn Fn(&str) -> Option<String> = &|_| None;

    fn state(ports: &str) -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("ports.json"), ports).expect("a file");
        fs::write(dir.path().join("operator.key"), "own-key\n").expect("a file");
        let place = Place { state: Some(dir.path().to_owned()), ..Place::default() };
        (dir, place)
    }

    #[test]
    fn flags_go_before_variables_and_those_before_the_state_directory() {
        let (dir, mut place) =
            state(r#"{"outbound": "x", "control": "http://h:1", "operator_key_file": "operator.key"}"#);
        let found = place.find(NONE).expect("a place");
        assert_eq!(found.url, "http://h:1");
        assert_eq!(found.key.expect("a key").expose(), "own-key");
        let variables = |name: &str| match name {
            "SIDEGUARD_CONTROL_URL" => Some("http://h:2".to_owned()),
            "SIDEGUARD_KEY" => Some("variable-key".to_owned()),
            _ => None,
        };
        let found = place.find(&variables).expect("a place");
        assert_eq!(
            (found.url.as_str(), found.key.expect("a key").expose().as_str()),
            ("http://h:2", "variable-key")
        );
        place.control = Some("http://h:3".to_owned());
        fs::write(dir.path().join("other.key"), "other-key").expect("a file");
        place.key_file = Some(dir.path().join("other.key"));
        let found = place.find(&variables).expect("a place");
        assert_eq!(
            (found.url.as_str(), found.key.expect("a key").expose().as_str()),
            ("http://h:3", "other-key")
        );
    }

    #[test]
    fn this_machines_key_is_not_told_to_another_service() {
        let (_dir, mut place) = state(r#"{"control": "http://h:1", "operator_key_file": "operator.key"}"#);
        place.control = Some("http://elsewhere".to_owned());
        assert!(place.find(NONE).expect("a place").key.is_none());
    }

    #[test]
    fn with_no_service_known_the_error_says_how_to_start_one() {
        let (_dir, place) = state("{}");
        let failure = place.find(NONE).expect_err("no place");
        assert_eq!(failure.code, 64);
        assert!(failure.hint.expect("a hint").contains("sideguard control"));
    }
}
