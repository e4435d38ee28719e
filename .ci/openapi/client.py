"""A client that was generated from the document: creates, lists, and meets a conflict."""

import sys

from tenantry_client import AuthenticatedClient
from tenantry_client.api.users import create, delete, get, list_
from tenantry_client.models import NewUser, Page, Problem, User

url, token = sys.argv[1:]
with AuthenticatedClient(base_url=url, token=token) as client:
    created = create.sync_detailed(client=client, body=NewUser(email="generated@example.com"))
    user = created.parsed
    assert created.status_code == 201 and isinstance(user, User), created
    assert user.email == "generated@example.com" and user.version == 1, user

    conflict = create.sync_detailed(client=client, body=NewUser(email="Generated@example.com"))
    assert conflict.status_code == 409, conflict
    assert isinstance(conflict.parsed, Problem), conflict
    assert conflict.parsed.type_ == "/problems/email-taken", conflict.parsed
    assert str(conflict.parsed.taken_by) == str(user.id), conflict.parsed

    page = list_.sync(client=client, limit=1000)
    assert isinstance(page, Page), page
    assert [listed for listed in page.users if listed.id == user.id] == [user], page

    assert get.sync(user.id, client=client) == user
    assert delete.sync_detailed(user.id, client=client).status_code == 200
    gone = get.sync_detailed(user.id, client=client)
    assert gone.status_code == 404 and gone.parsed.type_ == "/problems/not-found", gone
print("the generated client created, listed, met a conflict, and deleted")
