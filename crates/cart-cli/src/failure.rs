//! How a command fails: exit codes and the shape of error messages, in one place.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

/// The exit code of a refusal or of damage.
const REFUSED: u8 = 1;
/// The exit code of wrong arguments.
const ARGUMENTS: u8 = 2;
/// The exit code of a bug in cart.
pub(crate) const BUG: u8 = 70;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The input, the store or the request does not allow it.
    Refused {
        /// What an operation said.
        source: Box<dyn Error + Send + Sync>,
        /// What to do next, if the error itself does not say.
        hint: Option<String>,
    },
    /// The command ran and its report, already printed, says that something is wrong.
    Found,
    /// Arguments that can't be combined or parsed, found after clap.
    Arguments {
        /// What is wrong with them.
        message: String,
    },
    /// Whoever read our stdout went away.
    BrokenPipe,
    /// Something that cannot happen.
    Bug(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// An operation's own error.
    pub(crate) fn refused(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused { source: source.into(), hint: None }
    }

    /// An error, with what to do next.
    pub(crate) fn refused_with(
        source: impl Into<Box<dyn Error + Send + Sync>>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Refused { source: source.into(), hint: Some(hint.into()) }
    }

    /// Arguments that clap could not refuse.
    pub(crate) fn arguments(message: impl Into<String>) -> Self {
        Self::Arguments { message: message.into() }
    }

    /// Something that cannot happen.
    pub(crate) fn bug(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Bug(source.into())
    }

    /// Prints the failure to stderr (and, with `--json`, as a report to stdout) and gives the exit
    /// code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let Some((code, message, hint)) = self.wording() else {
            return ExitCode::from(if matches!(self, Self::Found) { REFUSED } else { 0 });
        };
        print(&message, hint.as_deref());
        if json {
            let body = serde_json::json!({ "error": message, "hint": hint, "exit_code": code });
            let _ = crate::report::print("error", &body);
        }
        ExitCode::from(code)
    }

    /// Prints the failure to stderr, of a command that goes on after it; gives the message.
    pub(crate) fn say(&self) -> String {
        let (_, message, hint) = self.wording().unwrap_or_default();
        print(&message, hint.as_deref());
        message
    }

    /// What it says; nothing where nothing is left to be said.
    pub(crate) fn message(&self) -> String {
        self.wording().unwrap_or_default().1
    }

    /// Exit code, message and hint; nothing where nothing is left to be said.
    fn wording(&self) -> Option<(u8, String, Option<String>)> {
        match self {
            Self::Refused { source, hint } => Some((REFUSED, chain(source.as_ref()), hint.clone())),
            Self::Found | Self::BrokenPipe => None,
            Self::Arguments { message } => {
                let hint = "`cart --help` lists the arguments".to_owned();
                Some((ARGUMENTS, message.clone(), Some(hint)))
            }
            Self::Bug(source) => {
                let message = format!("this is a bug in cart: {}", chain(source.as_ref()));
                let hint = "please report it with the command that caused it".to_owned();
                Some((BUG, message, Some(hint)))
            }
        }
    }
}

fn print(message: &str, hint: Option<&str>) {
    let mut stderr = anstream::stderr().lock();
    // A closed stderr leaves only the exit code to say it.
    let _ = writeln!(stderr, "{ERROR}error:{ERROR:#} {message}");
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "{HINT}hint:{HINT:#} {hint}");
    }
}

/// The error and what caused it, leaving out causes that the message already quotes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Prints clap's message; help and version are successes.
pub(crate) fn exit_for_arguments(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(ARGUMENTS) } else { ExitCode::SUCCESS }
}

/// A panic is a bug: one line, no backtrace unless asked for.
pub(crate) fn install_panic_hook() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            default(info);
        }
        let mut stderr = anstream::stderr().lock();
        let _ = writeln!(stderr, "{ERROR}error:{ERROR:#} this is a bug in cart: {info}");
        let _ = writeln!(
            stderr,
            "{HINT}hint:{HINT:#} please report it; RUST_BACKTRACE=1 shows where it happened"
        );
    }));
}
