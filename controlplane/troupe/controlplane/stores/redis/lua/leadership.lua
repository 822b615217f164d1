-- The record of leadership, and the head.
return {'OK', term, holder, address, renewals, generation, revision}
