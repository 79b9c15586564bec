"""The API as the command line calls it: who asks, what was said around the question, and answers or failures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from api.cli.failures import ExitCode, Failure
from api.cli.options import signing_key
from api.cli.output import Output
from api.cli.pieces import bearer, decoded, fresh_key, present
from api.cli.profile import Login, Profile, Token, demo_login, demo_logins, home_of, local_url

if TYPE_CHECKING:
    import httpx

    from api.signing import SignedRequests

Json = dict[str, Any]
PAUSES_SECONDS: Final = (0.2, 0.6)
"""Before each repetition of a call whose answer was lost; its idempotency key makes it count once."""

ANSWER_SECONDS_MAX: Final = 120
EXPIRY_MARGIN_SECONDS: Final = 30
PAGE_LIMIT: Final = 200
LOG_IN: Final = "/v1/auth/token"
REFRESH: Final = "/v1/auth/refresh"
LOG_OUT: Final = "/v1/auth/logout"
DEVICE: Final = "/v1/auth/oidc/device"
DEVICE_SESSION: Final = "/v1/auth/oidc/device/session"
_UNSIGNED: Final = frozenset({LOG_IN, REFRESH, LOG_OUT, DEVICE, DEVICE_SESSION})
"""What says who one is comes before anything that one could sign."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a person said around the command, by global options."""

    json: bool = False
    acting_as: str | None = None
    url: str | None = None
    as_of: str | None = None
    reason: str | None = None
    approval: str | None = None
    if_match: str | None = None
    idempotency_key: str | None = None
    evidence: tuple[str, ...] = ()
    when_approved: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: its status, its body as text or JSON, and the bytes it came as."""

    status: int
    body: Any
    content: bytes


def path(*segments: str) -> str:
    """A path of the API, each segment quoted: `path("budgets", "eu-lake", "reserve")`."""
    return "/v1/" + "/".join(quote(segment, safe="@+=~") for segment in segments)


class Client:
    """One command's connection to one server."""

    def __init__(self, said: Said, environ: Mapping[str, str], out: Output) -> None:
        self.said = said
        self.out = out
        self.home = home_of(environ)
        self.url = (said.url or environ.get("AUREUS_URL") or local_url(environ)).rstrip("/")
        self.profile = Profile(self.home, self.url)
        self._environ = environ
        self._is_default_server = not (said.url or environ.get("AUREUS_URL"))
        self._connection: httpx.Client | None = None
        self._credentials: Json | None = None
        self._acting: Token | None = None
        self._signed: SignedRequests | None = None

    # Questions

    def get(self, where: str, **parameters: Any) -> Answer:
        """An answer to a question, as of the moment asked for, or else no older than our own last command."""
        if self.said.as_of:
            parameters["as_of"] = self.said.as_of
        elif self.profile.position:
            parameters["at_least"] = self.profile.position
        try:
            return self.call("GET", where, parameters)
        except Failure as failure:
            if failure.details.get("field") == "at_least":
                failure.details["remedy"] = (
                    "It ends before what was seen of it here. If it was begun anew, `aureus logout` forgets the old one."
                )
            raise

    def one(self, where: str, **parameters: Any) -> Json:
        body: Json = self.get(where, **parameters).body
        return body

    def rows(self, where: str, limit: int, **filters: Any) -> Json:
        """Up to `limit` rows of a list, page by page, in the shape of one page."""
        items: list[Json] = []
        cursor: str | None = None
        while True:
            page = self.one(where, **filters, cursor=cursor, limit=min(limit - len(items), PAGE_LIMIT))
            items += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None or len(items) >= limit:
                return {**page, "items": items}

    # Commands

    def ask(self, where: str, body: Json, *, repeatable: bool = True) -> Json:
        """Asks for a command to be carried out; absent values are left out. What waits for an approval is a Failure."""
        given = {key: value for key, value in body.items() if value is not None}
        return self._settled(self.call("POST", where, {}, given, self._circumstances(), repeatable=repeatable))

    def bulk(self, where: str, body: Json, *, as_job: bool) -> Answer:
        """Asks for many commands; what became of each is in the answer, and no failure."""
        headers = {"Idempotency-Key": self.said.idempotency_key or fresh_key(), **({"Prefer": "respond-async"} if as_job else {})}
        answer = self.call("POST", where, {}, body, headers)
        self.remember(answer.body)
        return answer

    def send(self, where: str, content: bytes, media_type: str, parameters: Json) -> Json:
        """A command whose body is bytes, described by parameters."""
        return self._settled(self.call("POST", where, parameters, content, {**self._circumstances(), "Content-Type": media_type}))

    def _settled(self, answer: Answer) -> Json:
        result: Json = answer.body
        self.remember(result)
        if answer.status == 202:
            raise Failure.parked(result)
        return result

    def remember(self, facts: Json) -> None:
        """Reads wait for what we wrote; a refusal is written too."""
        if isinstance(facts.get("position"), int):
            self.profile.remember(facts["position"])

    def _circumstances(self) -> Json:
        said = self.said
        headers: Json = {"Idempotency-Key": said.idempotency_key or fresh_key()}
        if said.reason:
            headers["Aureus-Reason"] = said.reason.encode()
        if said.approval:
            headers["Aureus-Approval"] = said.approval
        if said.when_approved:
            headers["Aureus-When-Approved"] = said.when_approved
        if said.if_match:
            headers["If-Match"] = f'"{said.if_match.strip(chr(34))}"'
        if said.evidence:
            headers["Aureus-Evidence"] = ",".join(said.evidence)
        return headers

    # Transport

    def call(
        self,
        method: str,
        where: str,
        parameters: Mapping[str, Any],
        body: Json | bytes | None = None,
        headers: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = True,
    ) -> Answer:
        """One call, repeated when its answer was lost; logs in again once when a demo token has run out."""
        request = self._request(method, where, parameters, body, {**self._identity(), **(headers or {})})
        response = self._sent(request, repeatable=repeatable)
        if response.status_code == 401 and self._renew():
            request.headers.update(self._identity())
            response = self._sent(request, repeatable=repeatable)
        if response.status_code >= 400:
            failure = Failure.answered(response.status_code, decoded(response), response.headers.get("X-Request-Id"))
            self.remember(failure.details)
            raise failure
        return Answer(response.status_code, decoded(response), response.content)

    def lines(self, where: str, content: bytes, content_type: str, **parameters: Any) -> Iterator[Json]:
        """The lines of an answer that reports its progress, as they come."""
        import json

        import httpx

        headers = {**self._identity(), **self._circumstances(), "Content-Type": content_type, "Accept": "application/x-ndjson"}
        request = self._request("POST", where, parameters, content, headers)
        with closing(self._sent(request, stream=True)) as response:
            if response.status_code >= 400:
                response.read()
                raise Failure.answered(response.status_code, decoded(response), response.headers.get("X-Request-Id"))
            try:
                for line in filter(str.strip, response.iter_lines()):
                    report = json.loads(line)
                    if "error" in report and "outcome" not in report:
                        raise Failure.answered(report.get("status", 500), report)
                    yield report
            except httpx.TransportError as error:
                raise self._unreachable(error) from error

    @contextmanager
    def streamed(self, where: str, headers: Mapping[str, str], **parameters: Any) -> Iterator[httpx.Response]:
        """An answer of any length, read as it comes; logs in again once when a demo token has run out."""
        import httpx

        request = self._request("GET", where, parameters, None, {**self._identity(), **headers})
        response = self._sent(request, stream=True)
        if response.status_code == 401 and self._renew():
            response.close()
            request.headers.update(self._identity())
            response = self._sent(request, stream=True)
        with closing(response):
            if response.status_code >= 400:
                response.read()
                raise Failure.answered(response.status_code, decoded(response), response.headers.get("X-Request-Id"))
            try:
                yield response
            except httpx.TransportError as error:
                raise self._unreachable(error) from error

    def followed(self, where: str, content: bytes, content_type: str, title: str, **parameters: Any) -> Json:
        """What an answer that reports its progress comes to, with a bar for the lines before it."""
        result: Json = {}
        with self.out.progress() as report:
            for line in self.lines(where, content, content_type, **parameters):
                if isinstance(line.get("done"), dict):
                    result = line["done"]
                elif "phase" in line:
                    report(f"{title}: {line['phase']}", line["done"], line.get("total"))
        self.remember(result)
        return result

    def _request(self, method: str, where: str, parameters: Mapping[str, Any], body: Json | bytes | None, headers: Json) -> httpx.Request:
        content = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        return self._http().build_request(method, where, params=present(parameters), headers=headers, **content)

    def _sent(self, request: httpx.Request, *, repeatable: bool = True, stream: bool = False) -> httpx.Response:
        """The answer; when it is lost, that to the same request again, which counts once by its idempotency key."""
        import httpx

        signed = self._signing() if request.method == "POST" and request.url.path not in _UNSIGNED and not stream else None
        for pause_seconds in (*(PAUSES_SECONDS if repeatable else ()), None):
            try:
                return self._http().send(request, stream=stream, auth=signed)
            except httpx.TransportError as error:
                if pause_seconds is None:
                    raise self._unreachable(error) from error
                time.sleep(pause_seconds)
            except ValueError as error:
                if signed is None:
                    raise
                raise Failure(ExitCode.USAGE, "not_signed", f"{error}.", remedy="Nothing was asked.") from error
        raise AssertionError("the last attempt returns or raises")

    def _http(self) -> httpx.Client:
        if self._connection is None:
            import httpx

            # A proxy has no business between us and this very machine, and certificates none on plain HTTP (loading them takes 30 ms).
            local = urlsplit(self.url).hostname in {"127.0.0.1", "::1", "localhost"}
            self._connection = httpx.Client(
                base_url=self.url,
                timeout=httpx.Timeout(ANSWER_SECONDS_MAX, connect=5),
                trust_env=not local,
                verify=self.url.startswith("https:"),
            )
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _unreachable(self, error: Exception) -> Failure:
        remedy = "Start it with `make run` or `aureus serve`, or name another with --url or AUREUS_URL."
        message = f"No answer from {self.url}: {str(error) or type(error).__name__}."
        return Failure(ExitCode.UNREACHABLE, "server_unreachable", message, remedy=remedy)

    # Signatures

    def _signing(self) -> SignedRequests | None:
        """Who signs our commands: the key of AUREUS_SIGNING_KEY, or that of the login; None when it is not the actor's we act as."""
        file = self._environ.get("AUREUS_SIGNING_KEY") or self.profile.signing_key
        if file is None or self._signed is not None:
            return self._signed
        key = signing_key(file)
        me = self.call("GET", path("auth", "me"), {}).body
        if key.holder not in {None, f"{me['tenant']}/{me['actor']}"}:
            return None
        if self.profile.ledger is None:
            self.profile.sign_for(self.call("GET", path("ledger", "keys"), {}).body["ledger"])
        from api.signing import SignedRequests

        assert self.profile.ledger is not None
        self._signed = SignedRequests(key, self.profile.ledger, me["tenant"], me["actor"])
        return self._signed

    # Identity

    def _identity(self) -> Json:
        if self._credentials is None:
            self._credentials = self._found_credentials()
        return self._credentials

    def _found_credentials(self) -> Json:
        """An option before the environment, the environment before a login, a login before the demo's administrator."""
        if self.said.acting_as:
            return self._demo_credentials(demo_login(self.home, self.said.acting_as))
        if key := self._environ.get("AUREUS_API_KEY"):
            return {"X-API-Key": key}
        if token := self._environ.get("AUREUS_TOKEN"):
            return bearer(token)
        if current := self.profile.current:
            return self._session_credentials(current)
        if self._is_default_server and demo_logins(self.home):
            return self._demo_credentials(demo_login(self.home, "admin"))
        raise Failure(
            ExitCode.NOT_ALLOWED,
            "not_logged_in",
            f"Nobody is logged in at {self.url}.",
            remedy="Run `aureus login`, or set AUREUS_TOKEN or AUREUS_API_KEY.",
        )

    def _demo_credentials(self, login: Login) -> Json:
        roles = "" if login.roles == (login.login,) else f" ({', '.join(login.roles)})"
        self.out.note(f"acting as {login.login}{roles}, a login of the demo")
        kept = self.profile.token(login.login)
        self._acting = kept if kept and kept.actor == login.actor else None
        if self._acting is None or not (_fresh(self._acting) or self._again()):
            self._acting = self.log_in(login.login, login.password, demo=True)
        return bearer(self._acting.access_token)

    def _session_credentials(self, login: str) -> Json:
        self._acting = self.profile.token(login)
        if self._acting and _fresh(self._acting):
            return bearer(self._acting.access_token)
        if self._again():
            assert self._acting is not None
            return bearer(self._acting.access_token)
        raise Failure(
            ExitCode.NOT_ALLOWED, "login_expired", f"The login of {login} has run out.", remedy=f"Run `aureus login {login}` again."
        )

    def _renew(self) -> bool:
        """After a token was refused: whether there is another one now."""
        if not self._again():
            return False
        assert self._acting is not None
        self._credentials = bearer(self._acting.access_token)
        return True

    def _again(self) -> bool:
        """Gets the next token without asking anybody: for the refresh token, or for a password of the demo."""
        before = self._acting
        if before is None:
            return False
        self._acting = self._refreshed(before)
        if self._acting is None and before.demo and before.login in demo_logins(self.home):
            self._acting = self.log_in(before.login, demo_login(self.home, before.login).password, demo=True)
        return self._acting is not None

    def _refreshed(self, before: Token) -> Token | None:
        """The token after this one; None when the session is over. Another process may have fetched it meanwhile."""
        if before.refresh_token is None:
            return None
        with self.profile.refreshing():
            kept = self.profile.token(before.login)
            if kept is not None and kept.refresh_token not in (None, before.refresh_token):
                return kept
            request = self._request("POST", REFRESH, {}, {"refresh_token": before.refresh_token}, {})
            # Not repeated when the answer is lost: shown twice, it would be taken for a stolen one.
            response = self._sent(request, repeatable=False)
            return self.keep(decoded(response), before.login, demo=before.demo) if response.status_code < 400 else None

    def log_in(self, login: str, password: str, *, demo: bool, **more: str) -> Token:
        """Exchanges a password for tokens and keeps them; `code` and `new_password` may be said as well."""
        return self.keep(self.ask_openly(LOG_IN, {"login": login, "password": password, **more}), login, demo=demo)

    def ask_openly(self, where: str, body: Json) -> Json:
        """Asks without saying who one is: for what comes before a login, or is one."""
        response = self._sent(self._request("POST", where, {}, body, {}), repeatable=False)
        if response.status_code >= 400:
            raise Failure.answered(response.status_code, decoded(response), response.headers.get("X-Request-Id"))
        told: Json = decoded(response)
        return told

    def keep(self, body: Json, login: str, *, demo: bool = False) -> Token:
        """Keeps the tokens that a login was answered with."""
        until = time.time() + body["expires_in"]
        token = Token(login, body["access_token"], until, body["actor"], tuple(body["roles"]), demo, body.get("refresh_token"))
        self.profile.keep(token)
        return token

    def log_out(self) -> None:
        """Ends every session that is kept for this server, as far as it still knows them, and forgets them."""
        for token in self.profile.tokens():
            if token.refresh_token is not None:
                self._sent(self._request("POST", LOG_OUT, {}, {"refresh_token": token.refresh_token}, {}))
        self.profile.forget()


def _fresh(token: Token) -> bool:
    return token.expires_at - EXPIRY_MARGIN_SECONDS > time.time()
