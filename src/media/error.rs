//! Why a file was not taken, not found or not made small.

use std::{io, time::Duration};

use model::{Kind, Refusal, gate::GateError};
use ruma::OwnedServerName;

use crate::files::is_away;

/// When one tries again what failed because the bucket was away, milliseconds.
const AWAY_FOR_MS: u64 = 5_000;

/// Why a file was not taken, not found or not made small.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// There is no such file.
    #[error("there is no such file")]
    NotFound,
    /// It has a name, but its uploader has not sent it in the time that the asker would wait.
    #[error("the file has not been uploaded yet")]
    NotYetUploaded,
    /// More than this server takes.
    #[error("the file is larger than {limit} bytes")]
    TooLarge {
        /// How much it takes.
        limit: u64,
    },
    /// Its bytes ended before the request did.
    #[error("the upload broke off")]
    BrokenOff,
    /// It came too slowly.
    #[error("the upload took too long")]
    TooSlow,
    /// The name has its content already.
    #[error("the file has been uploaded already")]
    Filled,
    /// Somebody else made the name.
    #[error("the file is another user's")]
    NotYours,
    /// The user has made many names and filled none of them.
    #[error("too many files are still to be uploaded")]
    TooManyAwaited {
        /// When the first of them will be forgotten, at the latest.
        retry_after: Duration,
    },
    /// With it the user would have more here than anybody may.
    #[error("your files would take more than the {quota} bytes that you have here; {used} are in use")]
    QuotaExceeded {
        /// How much one may have.
        quota: u64,
        /// How much the user has, or has announced.
        used: u64,
    },
    /// What came is not what follows what is there.
    #[error("the file goes on at byte {offset}")]
    WrongOffset {
        /// Where it goes on.
        offset: u64,
    },
    /// Two can't send the same file at once.
    #[error("somebody is sending this file already")]
    Locked,
    /// It isn't what its uploader says it is.
    #[error("what came does not hash to what was said")]
    WrongHash,
    /// This server doesn't take files of this kind.
    #[error(
        "this server takes no files of the type {kind}: {allowed}. Send it in another format, or ask the admins of this server"
    )]
    KindNotAllowed {
        /// What it is, or is said to be.
        kind: String,
        /// What is taken.
        allowed: String,
    },
    /// There is a virus in it.
    #[error(
        "the virus scanner of this server found something harmful in the file; check the device that it comes from"
    )]
    Infected,
    /// It is larger than the virus scanner takes.
    #[error(
        "the file is larger than the virus scanner of this server takes; send it in parts, or ask the admins of this server"
    )]
    TooLargeToScan,
    /// The virus scanner is away, or makes no sense.
    #[error("the file could not be looked at for viruses")]
    NotScanned,
    /// It is no picture, or none of a kind that is known here.
    #[error("no thumbnail can be made of this file")]
    NoPicture,
    /// A picture, but one that would need too much memory.
    #[error("the picture is too large to make a thumbnail of")]
    TooLargeToScale,
    /// Too much is being done already.
    #[error("too many files are being worked on; try again")]
    Busy,
    /// It could not be had from its server.
    #[error("{failure} ({server})")]
    Remote {
        /// Whose it is.
        server: OwnedServerName,
        /// Why not.
        failure: RemoteFailure,
    },
    /// Its server isn't trusted so far.
    #[error(transparent)]
    Trust(#[from] peers::TrustError),
    /// A peer that is trusted less than wholly is not given it for its size.
    #[error("your server is given files of at most {limit} bytes")]
    TooLargeForPeer {
        /// What it is given at most.
        limit: u64,
    },
    /// Nor for its type.
    #[error("your server is given images, sound, video, plain text and PDF only")]
    NotForPeer,
    /// Whoever is asked first did not let it through.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The disk failed, or the bucket.
    #[error("the files could not be read or written")]
    Files(#[from] io::Error),
    /// The store failed.
    #[error("the store could not be read or written")]
    Store(#[from] store::Error),
}

/// Why another server's file could not be had. Remembered for a short while.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteFailure {
    /// Its server has no such file, or not for us.
    #[error("its server does not have the file")]
    NotFound,
    /// It is larger than this server fetches.
    #[error("the file is larger than the {limit} bytes that this server fetches")]
    TooLarge {
        /// How much it fetches.
        limit: u64,
    },
    /// Its server can't be reached, takes too long or makes no sense.
    #[error("its server could not be asked for the file")]
    Unreachable,
    /// This server talks to no others.
    #[error("this server does not talk with other servers")]
    Disabled,
    /// This server doesn't take files of this kind.
    #[error("this server gives out no files of the type {kind}")]
    KindNotAllowed {
        /// What it is, or is said to be.
        kind: String,
    },
    /// There is a virus in it.
    #[error("the virus scanner of this server found something harmful in the file")]
    Infected,
    /// It could not be looked at for viruses.
    #[error("the file could not be looked at for viruses, and is not given out; try again later")]
    NotScanned,
    /// A fault of ours, such as a full disk.
    #[error("the file could not be kept")]
    Ours,
}

impl Refusal for MediaError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound => Kind::NotFound,
            Self::TooLarge { .. } | Self::TooLargeToScale | Self::TooLargeToScan => Kind::TooLarge,
            Self::BrokenOff | Self::NoPicture | Self::WrongHash => Kind::Invalid,
            Self::NotYetUploaded | Self::TooSlow => Kind::Unreachable,
            Self::Filled | Self::WrongOffset { .. } | Self::Locked => Kind::Conflict,
            Self::NotYours | Self::QuotaExceeded { .. } | Self::TooLargeForPeer { .. } | Self::NotForPeer => {
                Kind::Forbidden
            }
            Self::KindNotAllowed { .. } | Self::Infected => Kind::Forbidden,
            Self::TooManyAwaited { .. } => Kind::RateLimited,
            Self::Busy | Self::NotScanned => Kind::Unavailable,
            Self::Remote { failure, .. } => match failure {
                RemoteFailure::NotFound | RemoteFailure::Disabled => Kind::NotFound,
                RemoteFailure::KindNotAllowed { .. } | RemoteFailure::Infected => Kind::Forbidden,
                RemoteFailure::TooLarge { .. } | RemoteFailure::Unreachable | RemoteFailure::NotScanned => {
                    Kind::Unreachable
                }
                RemoteFailure::Ours => Kind::Unavailable,
            },
            Self::Trust(error) => error.kind(),
            Self::Gate(error) => error.kind(),
            // Space can be made; other faults of a disk are somebody's to look at.
            Self::Files(error) if error.kind() == io::ErrorKind::StorageFull || is_away(error) => Kind::Unavailable,
            Self::Files(_) => Kind::Internal,
            Self::Store(error) => error.kind(),
        }
    }

    fn errcode(&self) -> Option<&'static str> {
        match self {
            Self::NotYetUploaded => Some("M_NOT_YET_UPLOADED"),
            Self::Filled => Some("M_CANNOT_OVERWRITE_MEDIA"),
            Self::BrokenOff | Self::NoPicture => Some("M_UNKNOWN"),
            Self::QuotaExceeded { .. } => Some("M_USER_LIMIT_EXCEEDED"),
            Self::Remote { failure: RemoteFailure::TooLarge { .. }, .. } => Some("M_TOO_LARGE"),
            Self::Remote { failure: RemoteFailure::Unreachable, .. } => Some("M_NOT_FOUND"),
            Self::Gate(error) => error.errcode(),
            _ => None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::KindNotAllowed { .. } | Self::Remote { failure: RemoteFailure::KindNotAllowed { .. }, .. } => {
                Some("file_type_not_allowed")
            }
            Self::Infected | Self::Remote { failure: RemoteFailure::Infected, .. } => Some("infected_file"),
            Self::TooLargeToScan => Some("too_large_to_scan"),
            Self::NotScanned | Self::Remote { failure: RemoteFailure::NotScanned, .. } => {
                Some("virus_scan_unavailable")
            }
            _ => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Gate(error) => error.remedy(),
            Self::NotScanned => {
                Some("the virus scanner of this server can't be asked at the moment; try again later".into())
            }
            Self::Files(error) if is_away(error) => {
                Some("Where this server keeps its files can't be reached; try again in a moment.".to_owned())
            }
            _ => None,
        }
    }

    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::TooManyAwaited { retry_after } => u64::try_from(retry_after.as_millis()).ok(),
            Self::Files(error) if is_away(error) => Some(AWAY_FOR_MS),
            _ => None,
        }
    }
}
