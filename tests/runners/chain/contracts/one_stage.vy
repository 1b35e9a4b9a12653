# pragma version ~=0.4.0
"""
@notice A test contract of one stage without leaderboards. Its overload of `submitReward` is in the fallback function:
        a client that picks the wrong one is refused with a text.
"""

event RewardSubmitted:
    account: indexed(address)
    roundNumber: indexed(uint256)
    stageNumber: indexed(uint256)
    reward: int256
    peerId: String[100]

event WinnerSubmitted:
    account: indexed(address)
    peerId: String[100]
    roundNumber: indexed(uint256)
    winners: DynArray[String[100], 10]

currentRound: public(uint256)
currentStage: public(constant(uint256)) = 0
stageCount: public(constant(uint256)) = 1
bootnodes: DynArray[String[100], 4]
eoas: HashMap[String[100], address]
paid: HashMap[uint256, HashMap[String[100], bool]]
voted: HashMap[uint256, HashMap[String[100], bool]]


@external
@view
def getBootnodes() -> DynArray[String[100], 4]:
    return self.bootnodes


@external
@view
def getEoa(ids: DynArray[String[100], 10]) -> DynArray[address, 10]:
    found: DynArray[address, 10] = []
    for each: String[100] in ids:
        found.append(self.eoas[each])
    return found


@external
def registerPeer(peerId: String[100]):
    if self.eoas[peerId] != empty(address):
        raw_revert(method_id("PeerIdAlreadyRegistered()"))
    self.eoas[peerId] = msg.sender


@external
def submitReward(round: uint256, stage: uint256, reward: int256, peerId: String[100]):
    if round > self.currentRound:
        raw_revert(method_id("InvalidRoundNumber()"))
    if stage > stageCount or (round == self.currentRound and stage > 0):
        raw_revert(method_id("InvalidStageNumber()"))
    if self.eoas[peerId] != msg.sender:
        raw_revert(method_id("InvalidVoterPeerId()"))
    if self.paid[round][peerId]:
        raw_revert(method_id("RewardAlreadySubmitted()"))
    self.paid[round][peerId] = True
    log RewardSubmitted(account=msg.sender, roundNumber=round, stageNumber=stage, reward=reward, peerId=peerId)


@external
def submitWinners(round: uint256, winners: DynArray[String[100], 10], peerId: String[100]):
    if round > self.currentRound:
        raw_revert(method_id("InvalidRoundNumber()"))
    if self.eoas[peerId] != msg.sender:
        raw_revert(method_id("InvalidVoterPeerId()"))
    if self.voted[round][peerId]:
        raw_revert(method_id("WinnerAlreadyVoted()"))
    self.voted[round][peerId] = len(winners) > 0
    log WinnerSubmitted(account=msg.sender, peerId=peerId, roundNumber=round, winners=winners)


@external
def updateStageAndRound() -> (uint256, uint256):
    self.currentRound += 1
    return self.currentRound, 0


@external
def __default__():
    if slice(msg.data, 0, 4) == method_id("submitReward(uint256,uint256,uint256,string)"):
        raise "unsigned rewards are of another game"
    raw_revert(b"")
