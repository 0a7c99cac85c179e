"""The REST shell both services share: application, route table, authentication, policy, versions, faults, paging."""
