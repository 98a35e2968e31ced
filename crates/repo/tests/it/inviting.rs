//! Hosts that are enrolled by a token: they write, they read nothing, and one token enrols one host.

use std::sync::Arc;
use std::time::Duration;

use refloat_repo::layout::{self, Named};
use refloat_repo::repository::{Credentials, Protection, TOKEN_PREFIX, Token};
use refloat_repo::{KeyError, RepoError, Repository, StateDirectory};
use refloat_store::Store as _;
use refloat_types::{Explain as _, Timestamp};

use super::opening::{Home, never, passphrase, refused};
use super::sample::{expected_files, fill, now, objects, put_backup, put_wal, read_files, wal_bytes};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn accept(home: &Home, host: &str, token: &str, at: Timestamp) -> Result<Repository, RepoError> {
    let state = StateDirectory::new(home.state.path().join(host));
    Repository::accept(Arc::new(home.store.clone()), state, &Token::parse(token).unwrap(), at)
}

fn made() -> (Home, Repository) {
    let home = Home::new();
    let first = home.init(Protection::Passphrase("x".to_owned())).unwrap();
    (home, first)
}

#[test]
fn an_invited_host_writes_and_cannot_read() {
    let (home, first) = made();
    let filled = fill(&first);
    let (token, invitation) = first.invite(DAY, now()).unwrap();
    let token = token.expose();
    assert!(token.starts_with(TOKEN_PREFIX) && token.len() == TOKEN_PREFIX.len() + 111, "{token}");
    let all = objects(&home.store);
    assert!(
        all.iter()
            .all(|(_, bytes)| !bytes.windows(40).any(|part| token.as_bytes().windows(40).any(|t| t == part)))
    );

    let writer = accept(&home, "writer", &token, now()).unwrap();
    assert!(!writer.can_read() && !writer.is_behind());
    writer.ensure_enrolled(now()).unwrap();
    let error = read_files(&writer, filled.source, filled.backup).unwrap_err();
    assert!(matches!(error, RepoError::NoKey { source: KeyError::NoIdentity, .. }), "{error:?}");
    assert!(matches!(writer.check_root(), Err(RepoError::NoRoot { .. })));
    assert!(matches!(writer.invite(DAY, now()), Err(RepoError::NoRoot { .. })));
    let backup = put_backup(&writer, filled.source);
    assert_eq!(read_files(&first, filled.source, backup).unwrap(), expected_files());
    // It names WAL as the others do: what they have stored is stored.
    let again = put_wal(&writer, &wal_bytes());
    assert!(
        matches!(&again, Err(RepoError::Store(e)) if e.kind == refloat_store::StoreErrorKind::AlreadyExists),
        "{again:?}"
    );

    // Running it again on the same host changes nothing, and the state directory is all it takes.
    let count = objects(&home.store).len();
    let again = accept(&home, "writer", &token, now()).unwrap();
    assert_eq!((again.agent(), objects(&home.store).len()), (writer.agent(), count));
    assert_eq!(home.open("writer", None, never).unwrap().agent(), writer.agent());
    let listed = first.list_invitations(&mut |object, error| panic!("{object}: {error}")).unwrap();
    assert_eq!(listed, [(invitation.clone(), Some(writer.agent()))]);
    let mut by = Vec::new();
    first.list_agents(&mut |_, agent| by.push(agent.unwrap().invitation)).unwrap();
    by.sort();
    assert_eq!(by, [None, Some(invitation.invitation)]);
    for (key, _) in objects(&home.store) {
        let named = Named::parse(&key).unwrap();
        if !matches!(named, Named::Pack(_) | Named::Wal(..)) {
            first.inspect(&named).unwrap();
        }
    }
    // Given the passphrase later, it reads.
    writer.adopt(now(), &mut || Ok(Credentials::Passphrase("x".to_owned()))).unwrap();
    let reader = home.open("writer", None, never).unwrap();
    assert_eq!(read_files(&reader, filled.source, filled.backup).unwrap(), expected_files());
    assert_eq!(reader.agent(), writer.agent());
}

#[test]
fn one_token_enrols_one_host_while_it_is_valid() {
    let (home, first) = made();
    let (token, invitation) = first.invite(DAY, now()).unwrap();
    let token = token.expose();
    let late = invitation.expires.checked_add(Duration::from_secs(1)).unwrap();
    let over = refused(accept(&home, "late", &token, late));
    assert!(matches!(over, RepoError::InvitationOver { why: "it has expired", .. }), "{over:?}");
    assert_eq!(over.advice().code, "KEY-007");
    let writer = accept(&home, "a", &token, now()).unwrap();
    let over = refused(accept(&home, "b", &token, now()));
    assert!(matches!(over, RepoError::InvitationOver { why: "another host has used it", .. }), "{over:?}");
    // The host that used it may repeat it, also later.
    assert_eq!(accept(&home, "a", &token, late).unwrap().agent(), writer.agent());

    let (other, _) = made();
    let wrong = refused(accept(&other, "a", &token, now()));
    assert!(matches!(wrong, RepoError::WrongFingerprint { .. }), "{wrong:?}");
    home.store.delete(&layout::invitation(invitation.invitation)).unwrap();
    assert!(matches!(first.agent_key(writer.agent(), "x"), Err(RepoError::UnknownOrigin { .. })));
}

#[test]
fn a_mistyped_token_is_none() {
    let (_home, first) = made();
    let token = first.invite(DAY, now()).unwrap().0.expose();
    assert!(Token::parse(&format!(" {token}\n")).is_some());
    for at in 0..token.len() {
        let mut bad = token.clone().into_bytes();
        bad[at] = if bad[at] == b'a' { b'b' } else { b'a' };
        assert!(Token::parse(&String::from_utf8(bad).unwrap()).is_none(), "{at}");
        assert!(Token::parse(&token[..at]).is_none(), "{at}");
    }
}

/// Somebody with the store and a token, or with an agent's key, makes what the program would not.
#[test]
fn enrolments_that_nobody_invited_are_refused() {
    let (home, first) = made();
    let (token, _) = first.invite(DAY, now()).unwrap();
    let used = layout::invitation_used(Token::parse(&token.expose()).unwrap().invitation());
    let one = accept(&home, "one", &token.expose(), now()).unwrap();
    let kept = objects(&home.store).into_iter().find(|(key, _)| *key == used).unwrap().1;
    // A second enrolment under the same invitation: the first stays, the second is refused.
    home.store.delete(&used).unwrap();
    let two = accept(&home, "two", &token.expose(), now()).unwrap();
    home.store.delete(&used).unwrap();
    home.store.put_new(&used, &kept).unwrap();
    let fresh = home.open("reader", None, passphrase("x")).unwrap();
    assert!(fresh.agent_key(one.agent(), "x").is_ok());
    let error = fresh.agent_key(two.agent(), "x").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "\"agents/{}\" does not come from an agent of this repository: its invitation was used by another host",
            two.agent()
        )
    );
    assert!(fresh.inspect(&Named::Agent(two.agent())).is_err());
    // And none at all where the object that used it up is gone.
    home.store.delete(&used).unwrap();
    let fresh = home.open("reader", None, never).unwrap();
    assert!(fresh.agent_key(one.agent(), "x").is_err() && fresh.agent_key(two.agent(), "x").is_err());

    // An invitation of another root.
    let (other, theirs) = made();
    let (forged, invitation) = theirs.invite(DAY, now()).unwrap();
    let stranger = accept(&other, "a", &forged.expose(), now()).unwrap();
    for (key, bytes) in objects(&other.store) {
        if key.as_str().starts_with("invitations/") || key == layout::agent(stranger.agent()) {
            home.store.put_new(&key, &bytes).unwrap();
        }
    }
    let error = fresh.agent_key(stranger.agent(), "x").unwrap_err();
    assert!(matches!(error, RepoError::UnknownOrigin { .. }), "{error:?}");
    for named in [Named::Invitation(invitation.invitation), Named::InvitationUsed(invitation.invitation)] {
        let error = fresh.inspect(&named).unwrap_err();
        assert!(matches!(error, RepoError::UnknownOrigin { .. }), "{error:?}");
    }
}

/// A host whose clock is behind, or that lies, cannot enrol itself when readers see that it was too late.
#[test]
fn an_enrolment_after_the_end_is_refused_by_readers() {
    use refloat_repo::kind::{Kind, Suite};
    use refloat_repo::object::document::{Body, Document, Signer};
    use refloat_repo::repository::ListedAgent;
    let (home, first) = made();
    let (token, invitation) = first.invite(DAY, now()).unwrap();
    let host = refloat_repo::crypt::sign::SigningKey::draw();
    let clear = ListedAgent {
        agent: host.public().agent_id(),
        public_key: host.public(),
        enrolled: invitation.expires.checked_add(Duration::from_secs(1)).unwrap(),
        invitation: Some(invitation.invitation),
    };
    let signer = Signer::Agent(token.signing());
    let bytes =
        Document::encode(Kind::Agent, Suite::Standard, clear.agent, &signer, &clear, &[], Body::Empty)
            .unwrap();
    home.store.put_new(&layout::invitation_used(invitation.invitation), &bytes).unwrap();
    home.store.put_new(&layout::agent(clear.agent), &bytes).unwrap();
    let error = first.agent_key(clear.agent, "x").unwrap_err();
    assert!(error.to_string().ends_with("it was enrolled when its invitation had expired"), "{error}");
}

#[test]
#[cfg(feature = "failpoints")]
fn a_host_that_was_killed_while_it_enrolled_goes_on() {
    use refloat_types::fault;
    for point in ["invite.before_used", "invite.after_used"] {
        let (home, first) = made();
        let token = first.invite(DAY, now()).unwrap().0.expose();
        fault::arm(&format!("{point}=error"));
        assert!(accept(&home, "a", &token, now()).is_err(), "{point}");
        fault::arm("");
        let writer = accept(&home, "a", &token, now()).unwrap();
        assert!(first.agent_key(writer.agent(), "x").is_ok(), "{point}");
    }
}
