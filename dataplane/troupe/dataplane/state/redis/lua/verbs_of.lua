-- with: bound recorded
return recorded()
