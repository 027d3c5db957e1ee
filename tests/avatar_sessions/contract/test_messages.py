"""The contract's models: what they refuse, and what editors and JSON Schema show of them."""

from __future__ import annotations

import inspect
import pickle
from uuid import UUID

import pytest
from pydantic import BaseModel, ValidationError

from avatar_sessions import AvatarSessionsError, Clip, InvalidMessage, OwnRoom, SessionRequest
from avatar_sessions.contract import activities, janitor, live_dialect, messages, reports
from avatar_sessions.contract.names import WAYNE_AVATAR_ID


def models_of(*modules: object) -> list[type[BaseModel]]:
    return [
        one
        for module in modules
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, BaseModel) and one is not BaseModel
    ]


@pytest.mark.parametrize(
    "model",
    models_of(messages, reports, janitor, activities, live_dialect),
    ids=lambda model: model.__name__,
)
def test_every_public_field_has_a_description(model: type[BaseModel]) -> None:
    """Editors and JSON Schema showed bare names: docstrings below fields are for readers only,
    unless pydantic is told to use them."""
    missing = [name for name, field in model.model_fields.items() if not field.description]

    assert missing == []
    assert model.__doc__


def test_json_schema_shows_the_descriptions() -> None:
    properties = SessionRequest.model_json_schema()["properties"]

    assert "free sandbox" in properties["sandbox"]["description"]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: SessionRequest(avatar_id="no-uuid"), "SessionRequest: avatar_id: "),
        (lambda: SessionRequest(avatar_id=WAYNE_AVATAR_ID, idle_timeout_s=0), "idle_timeout_s"),
        (lambda: SessionRequest(avatar_id=WAYNE_AVATAR_ID, sandbx=True), "sandbx"),  # type: ignore[call-arg]
        (lambda: OwnRoom(name=""), "OwnRoom: name"),
        (lambda: Clip(), "exactly one of url"),
        (lambda: Clip(url="ftp://example.org/x.wav"), "http://"),
    ],
)
def test_a_message_made_with_unusable_fields_raises_the_trees_own_error(
    make: object, problem: str
) -> None:
    """`except AvatarSessionsError` let a wrong avatar id pass: pydantic's own error came out."""
    assert callable(make)
    with pytest.raises(InvalidMessage, match=problem) as error:
        make()

    assert isinstance(error.value, AvatarSessionsError | ValueError)
    assert isinstance(error.value, ValueError)


def test_the_error_does_not_quote_the_values() -> None:
    with pytest.raises(InvalidMessage) as error:
        Clip(url="signed-address-with-a-secret")

    assert "secret" not in str(error.value)
    assert error.value.__cause__ is None


def test_validation_of_received_messages_raises_pydantics_error() -> None:
    """Workers and web frameworks validate what they receive; they format that error themselves."""
    with pytest.raises(ValidationError):
        SessionRequest.model_validate({"avatar_id": "no-uuid"})
    with pytest.raises(ValidationError):
        messages.COMMAND.validate_python({"kind": "speak", "clip": {}})


def test_the_typed_constructor_has_exactly_the_fields_and_defaults_of_the_model() -> None:
    """Type checkers see a constructor that takes strings for UUIDs: it must not fall behind."""
    source = inspect.getsource(SessionRequest)
    stub = source[source.index("def __init__(") : source.index(") -> None: ...")]
    parameters = [line.split(":")[0].strip() for line in stub.splitlines() if ": " in line]

    assert parameters == list(SessionRequest.model_fields)
    for name, field in SessionRequest.model_fields.items():
        assert f"{name}: " in stub
        if not field.is_required():
            default = {messages.DEFAULT_COMMAND_TTL_S: "DEFAULT_COMMAND_TTL_S"}.get(
                field.default, repr(field.default).replace("'", '"')
            )
            assert f" = {default},\n" in stub[stub.index(f"{name}: ") :].split("\n", 1)[0] + "\n"


def test_an_avatar_id_may_be_a_string_or_a_uuid() -> None:
    request = SessionRequest(avatar_id=WAYNE_AVATAR_ID)

    assert request == SessionRequest(avatar_id=UUID(WAYNE_AVATAR_ID))
    assert pickle.loads(pickle.dumps(request)) == request  # noqa: S301 - made here
