//! What the verbs that ask a control service share: where it is, how they fail, what they read and print.

pub(crate) mod join;
pub(crate) mod kind;
pub(crate) mod manifest;
pub(crate) mod object;
pub(crate) mod output;
pub(crate) mod place;
pub(crate) mod rows;
pub(crate) mod table;

use std::process::ExitCode;

use sideguard_client::ClientError;

pub(crate) use place::Place;

/// Exit code: a check found something, or control said no.
pub(crate) const FOUND: u8 = 1;
/// Exit code: what was given cannot be used.
pub(crate) const BAD_CONFIGURATION: u8 = 64;
/// Exit code: a failure of our own, or of the way to control.
pub(crate) const OWN_FAILURE: u8 = 125;

/// Why a verb failed: one line, what to do about it, and the findings where there are some.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) what: String,
    pub(crate) hint: Option<String>,
    pub(crate) findings: Vec<String>,
}

/// What a verb comes to.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with an exit code.
    pub(crate) fn new(code: u8, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), ..Self::default() }
    }

    /// The same, with a hint.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        let Failure { what, hint, findings, .. } = failure;
        let lines = findings.into_iter().chain([what]).chain(hint.map(|hint| format!("hint: {hint}")));
        Self::msg(lines.collect::<Vec<_>>().join("\n"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let what = error.to_string();
        match error {
            ClientError::Setup(_) => Self::new(BAD_CONFIGURATION, what),
            ClientError::Unreachable { .. } => Self::new(OWN_FAILURE, what)
                .hint("is it running? `sideguard control` starts one; `--control URL` names another"),
            ClientError::Protocol { .. } => Self::new(OWN_FAILURE, what)
                .hint("`--control URL` names the control service, such as http://127.0.0.1:4760"),
            ClientError::Refused(problem) => {
                let code = match problem.status {
                    500.. => OWN_FAILURE,
                    _ if !problem.findings.is_empty() => BAD_CONFIGURATION,
                    _ => FOUND,
                };
                let hint = match problem.status {
                    401 => Some("give a key with `--key-file FILE`, SIDEGUARD_KEY or SIDEGUARD_KEY_FILE"),
                    403 => Some("ask for an operator's key of this tenant"),
                    409 => Some("`sideguard history` tells what has changed since"),
                    _ => None,
                };
                Self { code, what, hint: hint.map(str::to_owned), findings: problem.findings }
            }
        }
    }
}

/// Tells how a verb went and gives its exit code.
pub(crate) fn end(outcome: Outcome<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|failure| {
        for finding in &failure.findings {
            eprintln!("{}\n", output::harmless(finding));
        }
        if !failure.what.is_empty() {
            eprintln!("sideguard: {}", output::harmless(&failure.what).replace('\n', " "));
        }
        if let Some(hint) = &failure.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(failure.code)
    })
}

/// As [`end`], for a verb that is done when it has not failed.
pub(crate) fn done(outcome: Outcome) -> ExitCode {
    end(outcome.map(|()| ExitCode::SUCCESS))
}

#[cfg(test)]
mod tests {
    use sideguard_client::ClientError;
    use sideguard_types::control::Problem;

    use super::Failure;

    #[test]
    fn exit_codes_tell_a_no_from_a_bad_file_from_a_failure() {
        let refused = |status, findings: &[&str]| {
            let findings = findings.iter().map(ToString::to_string).collect();
            let problem = Problem { status, code: String::new(), detail: "no".to_owned(), findings };
            Failure::from(ClientError::Refused(problem)).code
        };
        assert_eq!(
            (refused(409, &[]), refused(422, &["a.yaml:1:1: error"]), refused(503, &[])),
            (1, 64, 125)
        );
        let gone = ClientError::Unreachable { url: "u".to_owned(), reason: "r".to_owned() };
        assert_eq!(Failure::from(gone).code, 125);
    }
}
